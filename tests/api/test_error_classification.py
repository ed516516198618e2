"""Every response and every network error of the API has one meaning."""

import ssl
from unittest.mock import Mock

import aiohttp
import pytest
from multidict import CIMultiDict
from operations import NOW

from comms_exporter.api.error_classification import (
    MAX_RETRY_AFTER_SECONDS,
    classify_network_error,
    classify_response,
    error_message,
    parse_retry_after,
)
from comms_exporter.api.errors import REASONS, CommsError, ConnectionLostError, ThrottledError


class TestClassifyResponse:
    def test_a_200_is_no_error(self):
        assert classify_response(200, {}, b"", now=NOW) is None

    @pytest.mark.parametrize(
        ("status", "kind", "reason"),
        [
            (204, CommsError, "bad_payload"),
            (301, CommsError, "bad_payload"),
            (400, CommsError, "bad_request"),
            (401, CommsError, "auth"),
            (403, CommsError, "forbidden"),
            (404, CommsError, "not_found"),
            (408, CommsError, "timeout"),
            (409, CommsError, "bad_request"),
            (429, ThrottledError, "rate_limited"),
            (500, CommsError, "server"),
            (502, CommsError, "server"),
            (503, ThrottledError, "server"),
            (599, CommsError, "server"),
        ],
    )
    def test_every_other_status_has_a_reason(self, status, kind, reason):
        error = classify_response(status, {}, b"", now=NOW)

        assert (kind, reason) == (type(error), error.reason)
        assert reason in REASONS

    @pytest.mark.parametrize(
        ("status", "headers", "body", "message"),
        [
            (500, {}, b"Sorry.", "500: Sorry."),
            (204, {}, b"", "204 instead of 200"),
            (302, {"Location": "/v2?PageToken=AC1"}, b"", "302: unexpected redirect to /v2"),
        ],
    )
    def test_the_message_has_the_status_and_what_the_server_says(self, status, headers, body, message):
        assert message == str(classify_response(status, headers, body, now=NOW))

    @pytest.mark.parametrize("status", [429, 503])
    def test_a_throttled_response_says_how_long_to_wait(self, status):
        assert 7.0 == classify_response(status, {"Retry-After": "7"}, b"", now=NOW).retry_after
        assert classify_response(status, {}, b"", now=NOW).retry_after is None


class TestErrorMessage:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (
                b'{"errors":[{"code":20404,"message":"Not here.","infoUrl":"u","context":"null"}]}',
                "Not here. (code 20404)",
            ),
            (b'{"errors":[{"code":400,"context":null,"message":"No."}],"status":400}', "No. (code 400)"),
            (b'{"errors":[{"code":1,"message":"One."},{"message":"Two."}]}', "One. (code 1); Two."),
            (b'{"code":20003,"message":"Authenticate","more_info":"u","status":401}', "Authenticate (code 20003)"),
            (
                b'{"type":"t","title":"Bad","status":400,"code":7,"detail":"Worse than that"}',
                "Worse than that (code 7)",
            ),
            (b'{"errors":"what"}', '{"errors":"what"}'),
            (b"[1]", "[1]"),
            (b"<!doctype html><p>Bad gateway", "an HTML page"),
            (b"plain\n words", "plain words"),
            (b"\xff\xfe", "\ufffd\ufffd"),
            (b"", "empty body"),
            (b"[" * 100_000, "[" * 299 + "…"),
        ],
    )
    def test_is_found_in_every_format(self, body, message):
        assert message == error_message(body)


class TestParseRetryAfter:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            (None, None),
            ("", None),
            ("soon", None),
            ("-5", None),
            ("1.5", None),
            ("0", 0.0),
            (" 7 ", 7.0),
            ("9" * 5000, MAX_RETRY_AFTER_SECONDS),
            ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
            ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
            ("Sun, 21 Nov 2027 12:00:00 GMT", MAX_RETRY_AFTER_SECONDS),
        ],
    )
    def test_reads_seconds_and_dates_and_limits_them(self, value, seconds):
        assert seconds == parse_retry_after(value, now=NOW)


class TestClassifyNetworkError:
    @pytest.mark.parametrize(
        ("error", "kind", "reason"),
        [
            (TimeoutError(), ConnectionLostError, "timeout"),
            (aiohttp.ServerTimeoutError(), ConnectionLostError, "timeout"),
            (aiohttp.ClientOSError(111, "refused"), ConnectionLostError, "connection"),
            (aiohttp.ServerDisconnectedError(), ConnectionLostError, "connection"),
            (aiohttp.ClientPayloadError("cut"), ConnectionLostError, "connection"),
            (aiohttp.InvalidURL("http://[/"), CommsError, "bad_payload"),
            (ssl.SSLError("bad"), CommsError, "tls"),
            (aiohttp.ClientConnectorCertificateError(Mock(), ssl.CertificateError("old")), CommsError, "tls"),
            (
                aiohttp.ClientResponseError(Mock(), (), message="Bad status line", headers=CIMultiDict()),
                CommsError,
                "bad_payload",
            ),
        ],
    )
    def test_every_network_error_has_a_reason(self, error, kind, reason):
        classified = classify_network_error(error, 30)

        assert (kind, reason) == (type(classified), classified.reason)
        assert str(classified)
        assert reason in REASONS
