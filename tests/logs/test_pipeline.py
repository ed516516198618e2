"""Levels, exceptions, and what reaches the log of a configured process."""

import pytest

from comms_exporter import logs

SECRET = "c4n4ry/5ecret+value"


class TestLevels:
    @pytest.mark.parametrize(
        ("level", "expected"),
        [("debug", 4), ("info", 3), ("warn", 2), ("error", 1)],
    )
    def test_lower_levels_are_not_logged(self, stream, level, expected):
        log = logs.configure(level, "logfmt", stream)
        for method in (log.debug, log.info, log.warning, log.error):
            method("x")
        assert expected == len(stream.lines)

    def test_a_warning_is_spelled_like_the_flag(self, stream):
        logs.configure("info", "logfmt", stream).warning("x")
        assert ["level=warn msg=x"] == stream.lines


class TestExceptions:
    @pytest.mark.parametrize("style", ["logfmt", "json"])
    def test_are_one_field_without_local_variables(self, stream, style):
        log = logs.configure("info", style, stream)
        try:
            _fail("a-local-value")
        except ValueError:
            log.exception("failed")
        assert 1 == len(stream.getvalue().splitlines())
        assert "ValueError: on purpose" in stream.getvalue()
        assert "a-local-value" not in stream.getvalue().replace('_fail(\\"a-local-value\\")', "")

    @pytest.mark.parametrize("style", ["logfmt", "json"])
    def test_show_no_secret(self, stream, style):
        log = logs.configure("info", style, stream, [SECRET])
        try:
            try:
                {}[SECRET]
            except KeyError as error:
                error.add_note(f"note {SECRET}")
                raise ExceptionGroup(SECRET, [ValueError(f"password={SECRET!r}")]) from error
        except ExceptionGroup:
            log.exception("failed")
        assert "ExceptionGroup" in stream.getvalue()
        assert SECRET not in stream.getvalue()


def _fail(value):
    raise ValueError("on purpose")
