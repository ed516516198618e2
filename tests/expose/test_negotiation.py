"""The headers of a request decide the format and the encoding of the page."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comms_exporter.expose.negotiation import accepts_gzip, negotiate

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPEN = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class TestNegotiation:
    @pytest.mark.parametrize(
        ("accept", "content_type"),
        [
            pytest.param("", TEXT, id="nothing"),
            pytest.param(
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
                "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                OPEN,
                id="Prometheus 2.42",
            ),
            pytest.param(
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
                "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
                "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                f"{OPEN}; escaping=allow-utf-8",
                id="Prometheus 3",
            ),
            pytest.param(
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3",
                f"{OPEN}; escaping=allow-utf-8",
                id="Prometheus 3 with native histograms",
            ),
            pytest.param("text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT, id="VictoriaMetrics"),
            pytest.param("text/html,application/xhtml+xml,*/*;q=0.8", TEXT, id="a browser"),
            ("*/*", TEXT),
            ("application/openmetrics-text", OPEN),
            ("application/openmetrics-text;version=1.0.0;q=0", TEXT),
            ("application/openmetrics-text;version=1.0.0;q=0.1,text/plain;q=0.9", TEXT),
            ("text/plain;q=0.1,application/openmetrics-text;version=1.0.0;q=0.9", OPEN),
            ("application/openmetrics-text;version=0.0.1", TEXT),
            ("application/openmetrics-text;version=2.0.0", TEXT),
            ("application/openmetrics-text;version=9.9.9 evil", TEXT),
            ("application/openmetrics-text;version=1.0.0x", TEXT),
            ("application/openmetrics-text;version=1.0.0;escaping=evil", OPEN),
            ("application/openmetrics-text;version=1.0.0;q=2", TEXT),
            ("application/openmetrics-text;version=1.0.0;q=nan", TEXT),
            (
                "text/plain;version=1.0.0;escaping=underscores",
                "text/plain; version=1.0.0; charset=utf-8; escaping=underscores",
            ),
            ('APPLICATION/OpenMetrics-Text; Version="1.0.0" ; Q=0.5', OPEN),
        ],
    )
    def test_returns_the_preferred_format(self, accept, content_type):
        assert content_type == negotiate(accept).content_type

    @given(st.text())
    def test_accepts_any_header(self, header):
        assert negotiate(header).content_type.startswith(("text/plain; version=", "application/openmetrics-text; "))
        assert accepts_gzip(header) in {True, False}

    @pytest.mark.parametrize(
        ("accept_encoding", "accepted"),
        [
            ("", False),
            ("gzip", True),
            ("gzip, deflate, br", True),
            ("br", False),
            ("gzip;q=0", False),
            ("gzip;q=0, *", False),
            ("*", True),
            ("*;q=0", False),
            ("identity, GZIP;q=0.1", True),
            ("gzip;q=x", False),
        ],
    )
    def test_gzip_needs_permission(self, accept_encoding, accepted):
        assert accepted == accepts_gzip(accept_encoding)
