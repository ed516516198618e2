"""One event is one line, with nothing secret in it."""

import asyncio
import base64
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import warnings

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from comms_exporter import logs

SECRET = "c4n4ry/5ecret+value"
patient = settings(deadline=None)  # a busy machine is no failure
TS = re.compile(r"ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ")


@pytest.fixture(autouse=True)
def _as_it_was():
    """Logging is the process's, so every test gives it back."""
    root, access = logging.getLogger(), logging.getLogger("aiohttp.access")
    handlers, level, disabled = root.handlers[:], root.level, access.disabled
    yield
    root.handlers[:], access.disabled = handlers, disabled
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def stream():
    return io.StringIO()


def said(stream):
    """What was logged, without the time."""
    assert all(TS.match(line) for line in stream.getvalue().splitlines())
    return [TS.sub("", line) for line in stream.getvalue().splitlines()]


class TestLogfmt:
    def test_has_time_level_and_message_first_and_fields_in_their_order(self, stream):
        log = logs.configure("info", "logfmt", stream)
        log.info("polled", operations=13, forgotten=0, account="main")
        assert ["level=info msg=polled operations=13 forgotten=0 account=main"] == said(stream)

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("plain", "plain"),
            ("", '""'),
            ("two words", '"two words"'),
            ("a=b", '"a=b"'),
            ('say "hi"', r'"say \"hi\""'),
            ("back\\slash", r'"back\\slash"'),
            ("two\nlines", r'"two\nlines"'),
            ("carriage\rreturn", r'"carriage\rreturn"'),
            ("\x1b[31mred", r'"\u001b[31mred"'),
            ("next\u0085line\u2028sep", r'"next\u0085line\u2028sep"'),
            ("half a \udc80 character", r'"half a \udc80 character"'),
            ("de\x7fl", r'"de\u007fl"'),
            ("hid\ufe0fden", r'"hid\ufe0fden"'),
            ("Zürich", "Zürich"),
            (True, "true"),
            (None, "null"),
            (1.5, "1.5"),
            (float("nan"), "nan"),
            (["a", 1], r'"[\"a\", 1]"'),
            ({"a": {"b": 1}}, r'"{\"a\": {\"b\": 1}}"'),
            (b"bytes", "bytes"),
            (ValueError("wrong"), '"ValueError: wrong"'),
        ],
    )
    def test_escapes_what_would_end_a_value_or_a_line(self, stream, value, expected):
        logs.configure("info", "logfmt", stream).info("x", value=value)
        assert [f"level=info msg=x value={expected}"] == said(stream)

    def test_mends_keys_that_logfmt_cannot_have(self, stream):
        logs.configure("info", "logfmt", stream).info("x", **{"a b": 1, 'c="\n': 2, "": 3})
        assert ["level=info msg=x a_b=1 c___=2 _=3"] == said(stream)

    def test_keeps_fields_that_are_called_as_ours(self, stream):
        logs.configure("info", "logfmt", stream).info("x", ts=1, level="mine", msg="too")
        assert ["level=info msg=x ts_=1 level_=mine msg_=too"] == said(stream)

    @patient
    @given(st.text(), st.text())
    def test_is_one_line_whatever_is_said(self, event, value):
        stream = io.StringIO()
        logs.configure("info", "logfmt", stream).info(event, **{f"key {value}": value})
        assert 1 == len(stream.getvalue().splitlines())


class TestJson:
    def test_has_the_same_keys_in_the_same_order(self, stream):
        logs.configure("info", "json", stream).info("polled", operations=13, nested={"a": [1, None]})
        line = json.loads(stream.getvalue())
        assert ["ts", "level", "msg", "operations", "nested"] == list(line)
        assert {"a": [1, None]} == line["nested"]

    @patient
    @given(st.text(), st.recursive(st.none() | st.floats() | st.text() | st.binary() | st.integers(), st.lists))
    def test_is_one_line_of_valid_json_whatever_is_said(self, event, value):
        stream = io.StringIO()
        logs.configure("info", "json", stream).info(event, value=value)
        (line,) = stream.getvalue().splitlines()
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


class TestLevels:
    @pytest.mark.parametrize(
        ("level", "expected"),
        [("debug", 4), ("info", 3), ("warn", 2), ("error", 1)],
    )
    def test_what_is_less_is_not_said(self, stream, level, expected):
        log = logs.configure(level, "logfmt", stream)
        for method in (log.debug, log.info, log.warning, log.error):
            method("x")
        assert expected == len(said(stream))

    def test_a_warning_is_called_as_the_flag_calls_it(self, stream):
        logs.configure("info", "logfmt", stream).warning("x")
        assert ["level=warn msg=x"] == said(stream)


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
    def test_never_show_a_secret(self, stream, style):
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


class Peculiar:
    def __str__(self):
        return f"<{SECRET}>"

    __repr__ = __str__


class Broken:
    def __str__(self):
        raise RuntimeError(SECRET)


class TestRedaction:
    @pytest.mark.parametrize("style", ["logfmt", "json"])
    @pytest.mark.parametrize(
        "value",
        [
            SECRET,
            f"Bearer {SECRET}!",
            {"a": {"b": [SECRET]}},
            {SECRET: 1},
            [({SECRET},)],
            {("a", SECRET): 1},
            SECRET.encode(),
            ValueError(SECRET),
            Peculiar(),
            [Peculiar()],
            Broken(),
            "c4n4ry%2F5ecret%2Bvalue",
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_reaches_wherever_a_secret_may_be(self, stream, style, value):
        logs.configure("info", style, stream, [SECRET]).info("x", value=value)
        assert 1 == len(stream.getvalue().splitlines())
        assert SECRET not in stream.getvalue()
        assert "5ecret" not in stream.getvalue()

    def test_reaches_the_message_the_keys_and_bound_fields(self, stream):
        log = logs.configure("info", "logfmt", stream, [SECRET]).bind(bound=SECRET)
        log.info(SECRET, **{SECRET: 1})
        assert ["level=info msg=*** bound=*** ***=1"] == said(stream)

    def test_survives_what_contains_itself(self, stream):
        ring = [SECRET]
        ring.append(ring)
        logs.configure("info", "logfmt", stream, [SECRET]).info("x", ring=ring)
        assert SECRET not in stream.getvalue()

    @pytest.mark.parametrize("user", ["A", "AC", "ACx", "AC" + "0" * 32])
    def test_knows_the_secret_in_a_basic_header(self, stream, user):
        header = "Basic " + base64.b64encode(f"{user}:{SECRET}".encode()).decode()
        logs.configure("info", "logfmt", stream, [SECRET]).info("asked", headers={"Authorization": header})
        token = header.removeprefix("Basic ").rstrip("=")
        assert not any(token[i : i + 10] in stream.getvalue() for i in range(len(user) + 8, len(token) - 9))
        assert "***" in stream.getvalue()

    @patient
    @given(
        st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"], exclude_characters="*"), min_size=8),
        st.text(),
    )
    def test_holds_for_any_secret(self, secret, around):
        text = logs.Redactor([secret]).mask(f"{around}{secret}{around}{secret!r}")
        assert secret not in text

    def test_masks_a_longer_secret_whole(self):
        assert "*** ***" == logs.Redactor(["abcd", "abcdefgh"]).mask("abcdefgh abcd")

    def test_learns_more_secrets_and_forgets_none(self, stream):
        redactor = logs.Redactor(["old-secret"])
        log = logs.configure("info", "logfmt", stream, redactor)
        redactor.add(["new-secret"])
        log.info("x", old="old-secret", new="new-secret")
        assert ["level=info msg=x old=*** new=***"] == said(stream)

    def test_leaves_everything_else_alone(self):
        redactor = logs.Redactor(["", SECRET])
        assert "polled 13 operations" == redactor.mask("polled 13 operations")


class TestLibraries:
    def test_warnings_of_libraries_go_the_same_way(self, stream):
        logs.configure("info", "logfmt", stream, [SECRET])
        logging.getLogger("aiohttp.server").warning("odd %s", SECRET)
        assert ['level=warn msg="odd ***" logger=aiohttp.server'] == said(stream)

    def test_less_than_warnings_is_not_said(self, stream):
        logs.configure("debug", "logfmt", stream)
        logging.getLogger("asyncio").info("x")
        assert "" == stream.getvalue()

    def test_the_level_holds_for_them_too(self, stream):
        logs.configure("error", "logfmt", stream)
        logging.getLogger("asyncio").warning("x")
        assert "" == stream.getvalue()

    def test_requests_are_not_logged(self, stream):
        logs.configure("debug", "logfmt", stream)
        logging.getLogger("aiohttp.access").error("GET /metrics")
        assert "" == stream.getvalue()

    def test_a_message_that_does_not_fit_its_arguments_is_said_without_them(self, stream, capfd):
        logs.configure("info", "logfmt", stream)
        logging.getLogger().handlers[:-1] = []  # pytest has one there, which raises
        logging.getLogger("sloppy").error("%d", SECRET)
        assert ["level=error msg=%d logger=sloppy"] == said(stream)
        assert SECRET not in "".join(capfd.readouterr())

    def test_an_exception_nobody_awaited_is_said_in_one_line(self, stream):
        logs.configure("info", "logfmt", stream, [SECRET])

        async def main():
            asyncio.get_running_loop().call_exception_handler({"message": "lost", "exception": ValueError(SECRET)})

        asyncio.run(main())
        (line,) = said(stream)
        assert "msg=lost logger=asyncio exception=" in line
        assert SECRET not in line

    def test_no_exception_at_hand_is_no_matter(self, stream):
        logs.configure("info", "logfmt", stream)
        logging.getLogger("x").error("x", exc_info=True)  # noqa: LOG014  that is the case
        assert ["level=error msg=x logger=x"] == [line.partition(" exception")[0] for line in said(stream)]

    def test_a_flood_is_held_back_and_counted(self, stream):
        logs.configure("info", "logfmt", stream)
        for _ in range(500):
            logging.getLogger("loud").warning("x")
        logging.getLogger("loud").error("y")
        logging.getLogger("quiet").warning("z")
        logging.getLogger().handlers[-1].close()
        assert [
            *(["level=warn msg=x logger=loud"] * 10),
            "level=error msg=y logger=loud",
            "level=warn msg=z logger=quiet",
            'level=warn msg="more lines like these were suppressed" logger=loud suppressed=490',
        ] == said(stream)

    def test_a_rate_limit_lets_one_through_from_time_to_time(self):
        now = [0.0]
        limit = logs.RateLimit(2, 10.0, lambda: now[0])
        assert [True, True, False, False] == [limit.admit() for _ in range(4)]
        now[0] = 10.0
        assert [True, False] == [limit.admit() for _ in range(2)]
        assert 3 == limit.suppressed

    def test_configuring_twice_says_everything_once(self, stream):
        logs.configure("info", "logfmt", io.StringIO())
        logs.configure("info", "logfmt", stream)
        logging.getLogger("x").error("x")
        assert 1 == len(said(stream))


class TestStream:
    def test_is_stderr_unless_told_otherwise(self, capsys):
        logs.configure("info", "logfmt").info("x")
        out, err = capsys.readouterr()
        assert "" == out
        assert err.endswith("level=info msg=x\n")

    def test_a_closed_one_stops_nobody(self, stream):
        log = logs.configure("info", "logfmt", stream)
        stream.close()
        log.info("x")

    def test_one_that_knows_only_ascii_still_gets_the_line(self):
        raw = io.BytesIO()
        logs.configure("info", "logfmt", io.TextIOWrapper(raw, "ascii")).info("x", city="Zürich")
        assert raw.getvalue().endswith(b"city=Z\\xfcrich\n")

    @pytest.mark.parametrize("style", ["logfmt", "json"])
    def test_a_value_has_its_bounds(self, stream, style):
        logs.configure("info", style, stream, [SECRET]).info(
            "x", value="a" * 10_000_000 + SECRET, deep=[["b"] * 100_000]
        )
        assert len(stream.getvalue()) < 20_000
        assert "***" in stream.getvalue()

    def test_none_at_all_stops_nobody(self, monkeypatch):
        monkeypatch.setattr("sys.stderr", None)
        logs.configure("info", "logfmt").error("x")

    def test_one_that_nobody_reads_is_not_waited_for_and_the_lost_lines_are_counted(self):
        reading, writing = os.pipe()
        with os.fdopen(reading) as reader, os.fdopen(writing, "w") as pipe:
            log = logs.configure("info", "logfmt", pipe)
            for number in range(50_000):
                log.info("x", number=number)
            lines = []
            while not lines or "number=49999" not in lines[-1]:
                lines.append(reader.readline())
        told = [int(match[1]) for line in lines if (match := re.search(r"dropped .* lines=(\d+)", line))]
        assert 50_000 == len(lines) - len(told) + sum(told)
        assert 1 == len(told)
        assert sum(map(len, lines)) < 2 * logs._MAX_WAITING_BYTES

    def test_one_that_is_not_blocking_gets_every_line(self):
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        with os.fdopen(reading) as reader, os.fdopen(writing, "w") as pipe:
            log = logs.configure("info", "logfmt", pipe)
            for number in range(3000):
                log.info("x" * 300, number=number)
            assert list(range(3000)) == [int(reader.readline().rpartition("=")[2]) for _ in range(3000)]

    @pytest.mark.parametrize(
        ("end", "code"), [("", 0), ("raise SystemExit(3)", 3), ("raise RuntimeError", 1), ("asyncio.run(crash())", 1)]
    )
    def test_has_all_lines_when_the_process_has_ended(self, end, code):
        done = subprocess.run([sys.executable, "-c", LAST_WORDS + end], capture_output=True, check=False, timeout=20)
        numbers = re.findall(rb"number=(\d+)", done.stderr)
        assert (code, 2000) == (done.returncode, len(numbers))

    def test_that_nobody_reads_does_not_keep_the_process(self):
        reading, writing = os.pipe()
        try:
            done = subprocess.run([sys.executable, "-c", LAST_WORDS], stderr=writing, check=False, timeout=20)
        finally:
            os.close(reading)
            os.close(writing)
        assert 0 == done.returncode


LAST_WORDS = """
import asyncio
from comms_exporter.logs import configure
log = configure("info", "logfmt")
for number in range(2000):
    log.info("x" * 200, number=number)
async def crash():
    raise RuntimeError
"""


class TestUncaught:
    def test_exceptions_go_the_same_way(self, stream):
        log = logs.configure("info", "logfmt", stream, [SECRET])
        hooks = threading.excepthook, sys.unraisablehook

        class Finished:
            def __del__(self):
                raise ValueError(SECRET)

        with logs.uncaught(log):
            thread = threading.Thread(target=_fail, args=("x",))
            thread.start()
            thread.join()
            Finished()
            warnings.showwarning(SECRET, UserWarning, "x.py", 1)
        assert (threading.excepthook, sys.unraisablehook) == hooks
        assert ["a thread has crashed", "an exception could not", "x.py:1: UserWarning"] == [
            re.search(r'msg="(a thread has crashed|an exception could not|x.py:1: UserWarning)', line)[1]
            for line in said(stream)
        ]
        assert SECRET not in stream.getvalue()
