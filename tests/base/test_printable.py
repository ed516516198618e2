"""Untrusted text cannot control a terminal, or hide anything on it."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comms_exporter.base.printable import is_printable, printable


class TestPrintable:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Zürich, 日本, 🙂", "Zürich, 日本, 🙂"),
            ("\x1b]0;title\x07", r"\u001b]0;title\u0007"),
            ("\x00\x7f", r"\u0000\u007f"),
            ("\x9b31m\x85", r"\u009b31m\u0085"),
            ("two\r\n\tlines\u2028\u2029", r"two\r\n\tlines\u2028\u2029"),
            ("\u202egpj.exe\u2066\u200f\u061c", r"\u202egpj.exe\u2066\u200f\u061c"),
            ("zero\u200b\u200d\u2060\ufeffwidth", r"zero\u200b\u200d\u2060\ufeffwidth"),
            ("blank\u3164\ufe0f\u034f", r"blank\u3164\ufe0f\u034f"),
            ("tag\U000e0041\U000e0100", r"tag\udb40\udc41\udb40\udd00"),
            ("half \ud800", r"half \ud800"),
            (r"back\slash", r"back\slash"),
        ],
    )
    def test_escapes_unprintable_characters(self, text, expected):
        assert expected == printable(text)

    @given(st.text(st.characters(codec=None)))
    def test_the_result_is_printable(self, text):
        shown = printable(text)

        assert is_printable(shown)
        assert shown == printable(shown)
        assert {unicodedata.category(c) for c in shown}.isdisjoint({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

    @given(st.text(st.characters(codec=None)))
    def test_escaped_json_has_the_same_value(self, text):
        """Half a surrogate pair stays half, and two halves make a character."""
        value = json.dumps(text, ensure_ascii=False)

        assert json.loads(json.dumps(text)) == json.loads(printable(value))
