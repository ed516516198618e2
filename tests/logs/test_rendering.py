"""Every event is one line in logfmt or JSON, and no secret is in it."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs.stream import LogStream

from comms_exporter import logs
from comms_exporter.base.redaction import Redactor

SECRET = "c4n4ry/5ecret+value"


class TestLogfmt:
    def test_starts_with_time_level_and_message_and_keeps_the_order_of_fields(self, stream):
        log = logs.configure("info", "logfmt", stream)
        log.info("polled", operations=13, forgotten=0, account="main")
        assert ["level=info msg=polled operations=13 forgotten=0 account=main"] == stream.lines

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
    def test_escapes_characters_that_end_a_value_or_a_line(self, stream, value, expected):
        logs.configure("info", "logfmt", stream).info("x", value=value)
        assert [f"level=info msg=x value={expected}"] == stream.lines

    def test_replaces_characters_that_a_key_cannot_contain(self, stream):
        logs.configure("info", "logfmt", stream).info("x", **{"a b": 1, 'c="\n': 2, "": 3})
        assert ["level=info msg=x a_b=1 c___=2 _=3"] == stream.lines

    def test_renames_fields_that_are_called_like_the_header(self, stream):
        logs.configure("info", "logfmt", stream).info("x", ts=1, level="mine", msg="too")
        assert ["level=info msg=x ts_=1 level_=mine msg_=too"] == stream.lines

    @given(st.text(), st.text())
    def test_any_event_is_one_line(self, event, value):
        stream = LogStream()
        logs.configure("info", "logfmt", stream).info(event, **{f"key {value}": value})
        assert 1 == len(stream.getvalue().splitlines())


class TestJson:
    def test_has_the_same_keys_in_the_same_order(self, stream):
        logs.configure("info", "json", stream).info("polled", operations=13, nested={"a": [1, None]})
        line = json.loads(stream.getvalue())
        assert ["ts", "level", "msg", "operations", "nested"] == list(line)
        assert {"a": [1, None]} == line["nested"]

    @given(st.text(), st.recursive(st.none() | st.floats() | st.text() | st.binary() | st.integers(), st.lists))
    def test_any_event_is_one_line_of_valid_json(self, event, value):
        stream = LogStream()
        logs.configure("info", "json", stream).info(event, value=value)
        (line,) = stream.getvalue().splitlines()
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


class SecretInStr:
    def __str__(self):
        return f"<{SECRET}>"

    __repr__ = __str__


class RaisingStr:
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
            SecretInStr(),
            [SecretInStr()],
            RaisingStr(),
            "c4n4ry%2F5ecret%2Bvalue",
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_masks_secrets_at_any_depth(self, stream, style, value):
        logs.configure("info", style, stream, [SECRET]).info("x", value=value)
        assert 1 == len(stream.getvalue().splitlines())
        assert SECRET not in stream.getvalue()
        assert "5ecret" not in stream.getvalue()

    def test_masks_the_message_keys_and_bound_fields(self, stream):
        log = logs.configure("info", "logfmt", stream, [SECRET]).bind(bound=SECRET)
        log.info(SECRET, **{SECRET: 1})
        assert ["level=info msg=*** bound=*** ***=1"] == stream.lines

    def test_a_value_that_contains_itself_is_bounded(self, stream):
        ring = [SECRET]
        ring.append(ring)
        logs.configure("info", "logfmt", stream, [SECRET]).info("x", ring=ring)
        assert SECRET not in stream.getvalue()

    @pytest.mark.parametrize("user", ["A", "AC", "ACx", "AC" + "0" * 32])
    def test_masks_the_secret_in_a_basic_header(self, stream, user):
        header = "Basic " + base64.b64encode(f"{user}:{SECRET}".encode()).decode()
        logs.configure("info", "logfmt", stream, [SECRET]).info("asked", headers={"Authorization": header})
        token = header.removeprefix("Basic ").rstrip("=")
        assert not any(token[i : i + 10] in stream.getvalue() for i in range(len(user) + 8, len(token) - 9))
        assert "***" in stream.getvalue()

    def test_masks_secrets_that_were_added_later_and_earlier_ones(self, stream):
        redactor = Redactor(["old-secret"])
        log = logs.configure("info", "logfmt", stream, redactor)
        redactor.add(["new-secret"])
        log.info("x", old="old-secret", new="new-secret")
        assert ["level=info msg=x old=*** new=***"] == stream.lines
