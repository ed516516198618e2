"""A secret is found in every form in which a server, a proxy or a library may repeat it."""

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comms_exporter.base.redaction import Redactor, mask_addresses

SECRET = 'p@ss/w0rd+"x" <ü>\\&%41'
FORMS = {
    "as it is": SECRET,
    "repr": repr(SECRET),
    "bytes": repr(SECRET.encode()),
    "JSON": json.dumps(SECRET),
    "JSON without ASCII": json.dumps(SECRET, ensure_ascii=False),
    "JSON in JSON": json.dumps(json.dumps(SECRET)),
    "JSON, every character escaped": "".join(f"\\u{ord(c):04x}" for c in SECRET),
    "percent": quote(SECRET, safe=""),
    "percent, a part of a path": quote(SECRET),
    "percent, a browser's": quote(SECRET, safe="!'()*"),
    "percent, a form's": quote_plus(SECRET),
    "percent in small letters": quote(SECRET, safe="").replace("%2F", "%2f").replace("%3C", "%3c"),
    "percent, every character": "".join(f"%{byte:02X}" for byte in SECRET.encode()),
    "percent twice": quote(quote(SECRET, safe=""), safe=""),
    "HTML": html.escape(SECRET),
    "HTML, numbered": "".join(f"&#{ord(c)};" for c in SECRET),
    "in capitals": SECRET.upper(),
    **{
        f"Basic, {encoding}, {user}": base64.b64encode(f"{user}:{SECRET}".encode(encoding)).decode()
        for encoding in ("utf-8", "latin-1")
        for user in ("A", "AC", "ACx")
    },
    "Base64 for URLs": base64.urlsafe_b64encode(f"u:{SECRET}".encode()).decode(),
}
CORES = ("w0rd", "W0RD", "dzBy", "cwcm", "L3cw", "%77%30", "&#119;&#48;", "u0077")


class TestMask:
    @pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
    def test_masks_every_form(self, form):
        masked = Redactor([SECRET]).mask(f"before {form} after")

        assert "***" in masked
        assert [] == [core for core in CORES if core in masked]
        assert masked.startswith("before ")
        assert masked.endswith(" after")

    def test_masks_a_proxy_password_as_written_in_its_url_and_as_sent(self):
        sent = base64.b64encode(b"me:p@ss w0rd").decode()

        for form in ("p%40ss%20w0rd", "p@ss w0rd", f"Basic {sent}", "p%40ss w0rd", "p@ss%20w0rd"):
            masked = Redactor(["p%40ss%20w0rd"]).mask(form)
            assert "***" in masked
            assert "w0rd" not in masked
            assert sent[6:] not in masked

    def test_leaves_other_text_unchanged(self):
        text = "100% of a\\b, &amp; %41 \\u0041 is not it"

        assert text == Redactor([SECRET]).mask(text)
        assert text == Redactor().mask(text)

    @given(
        st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="*%&\\"), min_size=8), st.data()
    )
    def test_masks_any_mixture_of_escapes(self, secret, data):
        escapes = (str, lambda c: f"%{ord(c):02x}", lambda c: f"\\u{ord(c):04x}", lambda c: f"&#x{ord(c):x};")
        mixed = "".join(data.draw(st.sampled_from(escapes))(c) for c in secret)
        redactor = Redactor([secret])

        assert "***" == redactor.mask(mixed)
        assert redactor.finds_secret_in(f"op_{mixed}_1")

    @given(
        st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"], exclude_characters="*"), min_size=8),
        st.text(),
    )
    def test_masks_any_secret(self, secret, around):
        text = Redactor([secret]).mask(f"{around}{secret}{around}{secret!r}")
        assert secret not in text

    def test_masks_the_longer_of_two_secrets_as_a_whole(self):
        assert "*** ***" == Redactor(["abcd", "abcdefgh"]).mask("abcdefgh abcd")

    def test_ignores_an_empty_secret(self):
        redactor = Redactor(["", SECRET])
        assert "polled 13 operations" == redactor.mask("polled 13 operations")


class TestFindsSecretIn:
    @pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
    def test_finds_every_form(self, form):
        assert Redactor([SECRET]).finds_secret_in(f"comms_operation_{form}")

    def test_finds_nothing_by_chance(self):
        """A secret of a few characters is part of many words."""
        assert not Redactor(["op", "a", ""]).finds_secret_in("comms_operation_a")
        assert not Redactor().finds_secret_in("comms_operation_a")


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "masked"),
        [
            ("no such user: jane@example.com.", "no such user: ***@example.com."),
            ("<jane@example.com>,'o'brien@b.example'", "<***@example.com>,***@b.example'"),
            ("bounce+jane=example.com@list.example", "***@list.example"),
            ('"Jane Doe"@example.com', "***@example.com"),
            ("/v1/Emails?to=jane%40example.com", "***@example.com"),
            ("jane@home@example.com", "***@example.com"),
            ("nothing to mask, 100 %", "nothing to mask, 100 %"),
        ],
    )
    def test_only_the_domain_is_left(self, text, masked):
        assert masked == mask_addresses(text)

    @pytest.mark.parametrize("text", ["a" * 200_000 + " @", "@" * 200_000, '"a' * 100_000 + "@", '"' * 200_000 + "@"])
    def test_takes_linear_time(self, text):
        # A quadratic search would take minutes.
        assert len(mask_addresses(text)) <= len(text) + 3
