"""Emails are read from every published format, and nothing personal is kept of them."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operations import NOW

from comms_exporter.api import email_payloads
from comms_exporter.api.email_payloads import (
    DeliveryError,
    Receipt,
    _read_page_leniently,
    domain_of,
    read_delivery_errors,
    read_email,
    read_email_page,
    read_receipts,
)
from comms_exporter.api.payloads import MAX_JSON_VALUES, BadPayloadError, TooManyValuesError
from comms_exporter.model.emails import Email

# As in the reference's sample.
ENTRY = {
    "id": "comms_email_1",
    "from": {"address": "news@Shop.example", "name": "Shop"},
    "to": [{"address": "jane@Example.com", "name": "Jane"}],
    "status": "UNDELIVERED",
    "related": [{"name": "OPERATION", "id": "comms_operation_1", "uri": "https://comms.example/v1"}],
    "tags": {"campaign": "spring"},
    "scheduledFor": None,
    "createdAt": "2026-11-21T12:00:00Z",
    "updatedAt": "2026-11-21T12:00:10Z",
    "deletedAt": None,
}
EMAIL = Email(
    "comms_email_1",
    "UNDELIVERED",
    "comms_operation_1",
    NOW,
    NOW + 10,
    "example.com",
    1,
    "shop.example",
    (("campaign", "spring"),),
)


def read(entry):
    return read_email_page(json.dumps({"emails": [entry], "pagination": {"next": None}}).encode())


def field(name, **changes):
    (email,) = read(ENTRY | changes).emails
    return getattr(email, name)


class TestEmail:
    def test_has_what_is_needed(self):
        page = read(ENTRY)

        assert ([EMAIL], None, [], 0) == page[:4]
        assert not page.unknown

    def test_may_be_fetched_alone(self):
        assert [EMAIL] == read_email(json.dumps(ENTRY | {"content": {"subject": "s"}}).encode()).emails

    @pytest.mark.parametrize(
        ("to", "domain", "recipients"),
        [
            ({"address": "jane@example.com", "name": "Jane"}, "example.com", 1),
            ([{"address": "jane@a.example"}, {"address": "joe@b.example"}], "a.example", 2),
            ("jane@example.com", "example.com", 1),
            (["jane@example.com"], "example.com", 1),
            ([{"email": "jane@example.com"}], "example.com", 1),
            ([], "", 0),
            (None, "", 0),
            ([{}], "", 1),
            (7, "", 1),
        ],
    )
    def test_recipients_are_a_list_or_an_object(self, to, domain, recipients):
        assert domain == field("recipient_domain", to=to)
        assert recipients == field("recipients", to=to)

    def test_recipients_may_be_missing(self):
        (email,) = read({name: value for name, value in ENTRY.items() if name not in {"to", "from"}}).emails

        assert ("", 0, "") == (email.recipient_domain, email.recipients, email.sender_domain)

    @pytest.mark.parametrize(
        "sender", [{"address": "a@shop.example"}, "a@shop.example", [{"address": "a@shop.example"}]]
    )
    def test_a_sender_needs_no_name(self, sender):
        assert "shop.example" == field("sender_domain", **{"from": sender})

    @pytest.mark.parametrize(
        ("members", "operation"),
        [
            ({"related": []}, None),
            ({"related": None}, None),
            ({"related": [], "operationId": "comms_operation_2"}, "comms_operation_2"),
            ({"related": {"type": "operation", "id": "comms_operation_2"}}, "comms_operation_2"),
            ({"related": [{"name": "PROFILE", "id": "mem_profile_1"}, 7]}, None),
            ({"related": [{"name": "OPERATION", "id": "bad\n"}]}, None),
            ({"related": "x", "operationId": 7}, None),
        ],
    )
    def test_its_operation_is_related_or_a_member_or_unknown(self, members, operation):
        assert operation == field("operation_id", **members)

    @pytest.mark.parametrize(
        ("tags", "expected"),
        [
            (None, ()),
            ({}, ()),
            ({"b": "2", "a": "1"}, (("a", "1"), ("b", "2"))),
            ([{"key": "a", "value": "1"}, {"name": "b", "value": "2"}], (("a", "1"), ("b", "2"))),
            (["a:1"], (("a", "1"),)),
            ("a:1;b:2;", (("a", "1"), ("b", "2"))),
            ({"a": 1, "b": "x" * 200, "c": "\n", "d": "jane@example.com", "": "x"}, ()),
            (7, ()),
        ],
    )
    def test_tags_are_an_object_or_a_list(self, tags, expected):
        assert expected == field("tags", tags=tags)

    def test_has_a_bounded_number_of_tags(self):
        assert 10 == len(field("tags", tags={f"k{n}": "v" for n in range(1000)}))

    def test_an_unknown_status_is_kept_and_counted(self):
        page = read(ENTRY | {"status": "Bounced"})

        assert ["BOUNCED"] == [each.status for each in page.emails]
        assert {"status": 1} == page.unknown

    @pytest.mark.parametrize("time", [None, 7, "", "yesterday", "0000-00-00T00:00:00Z"])
    def test_an_unreadable_time_is_unknown(self, time):
        assert field("created_at", createdAt=time) is None
        assert field("updated_at", updatedAt=time) is None

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            (7, "an email is not a valid JSON object"),
            ([], "an email is not a valid JSON object"),
            (ENTRY | {"id": None}, "id is a JSON null, not a string"),
            (ENTRY | {"id": "x" * 129}, "id is empty, too long or contains control characters"),
            (ENTRY | {"id": "a\x1b[2J"}, "id is empty, too long or contains control characters"),
            (ENTRY | {"id": "\ud800"}, "id is empty, too long or contains control characters"),
            (ENTRY | {"status": 7}, "status is a JSON number, not a string"),
        ],
    )
    def test_a_damaged_one_does_not_fail_its_page(self, entry, message):
        page = read_email_page(json.dumps({"emails": [entry, ENTRY]}).encode())

        assert ([EMAIL], [message]) == (page.emails, page.malformed)

    @pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "9" * 5000])
    def test_an_impossible_number_does_not_fail_its_page(self, number):
        body = json.dumps({"emails": [{"id": "a", "to": "?"}, ENTRY]}).replace('"?"', number)

        assert EMAIL in read_email_page(body.encode()).emails

    @pytest.mark.parametrize("text", [r"\ud800", r"\u0000", "\x7f"])
    def test_content_is_not_decoded(self, text):
        body = json.dumps(ENTRY).replace('"deletedAt"', f'"content": {{"html": "{text}"}}, "deletedAt"')

        assert [EMAIL] == read_email_page(f'{{"emails": [{body}]}}'.encode()).emails


class TestPage:
    @pytest.mark.parametrize(
        "payload",
        [
            {"emails": [ENTRY], "pagination": {"next": "t"}},
            {"data": [ENTRY], "pagination": {"nextPageToken": "t"}, "other": []},
            {"items": [ENTRY], "meta": {"key": "items", "nextToken": "t"}, "other": []},
            {"whatever": [ENTRY], "nextPageToken": "t"},
        ],
    )
    def test_every_published_envelope_is_read(self, payload):
        page = read_email_page(json.dumps(payload).encode())

        assert ([EMAIL], "t") == (page.emails, page.next)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"{}",
            b'{"emails": {}}',
            b"<html>",
            b'{"emails": [',
            b'{"a": [], "b": []}',
            b'{"emails": ' + b"[" * 100_000,
        ],
    )
    def test_anything_else_is_a_bad_payload(self, body):
        with pytest.raises(BadPayloadError):
            read_email_page(body)

    @pytest.mark.parametrize("entries", [MAX_JSON_VALUES + 1, 20_001])
    def test_too_many_values_are_not_decoded(self, entries):
        with pytest.raises(TooManyValuesError):
            read_email_page(b'{"emails": [' + b",".join([b"0"] * entries) + b"]}")


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("jane@Example.COM", "example.com"),
        ("jane@example.com.", "example.com"),
        ("Jane <jane@example.com>", "example.com"),
        ('"jane@home"@example.com', "example.com"),
        ("jane@bücher.example", "xn--bcher-kva.example"),
        ("jane", ""),
        ("jane@", ""),
        ("@", ""),
        ("jane@a b", ""),
        ("jane@x\n.example", ""),
        ("jane@" + "x" * 254, ""),
        ("jane@" + "é" * 300, ""),
        ("jane@..é", ""),
        (None, ""),
        ({}, ""),
    ],
)
def test_an_address_is_cut_to_its_domain(address, domain):
    assert domain == domain_of(address)


def test_of_addresses_only_valid_domains_are_kept(monkeypatch):
    kept = {}
    monkeypatch.setattr(email_payloads, "_known_domains", kept)
    monkeypatch.setattr(email_payloads, "_MAX_KNOWN_DOMAINS", 2)

    for address in ("jane@a.example", "joe@a.example", "jane@b.example <Jane Doe>", "jane@"):
        domain_of(address)

    assert {"a.example": "a.example"} == kept
    for n in range(5):
        assert f"{n}.example" == domain_of(f"jane@{n}.example")
        assert len(kept) <= 2


class TestDetails:
    @pytest.mark.parametrize(
        "payload",
        [
            [{"code": 30003, "message": "no route"}],
            {"errors": [{"code": "30003", "message": "no route"}, 7], "pagination": {"next": None}},
            {"data": {"errors": [{"errorCode": 30003, "errorMessage": "no route"}]}},
            {"operation": {"id": "x"}, "anything": [{"code": 30003, "detail": "no route"}]},
        ],
    )
    def test_errors_may_be_anywhere_sensible(self, payload):
        assert ([DeliveryError("30003", "no route")], None) == read_delivery_errors(json.dumps(payload).encode())

    def test_addresses_in_messages_are_masked(self):
        message = '550 5.1.1 <jane.doe@example.com>: "Jane Doe"@example.com bounce+jane.doe=example.com@list.example'
        ((error,), _) = read_delivery_errors(json.dumps([{"code": 550, "message": message}]).encode())

        assert "550 5.1.1 <***@example.com>: ***@example.com ***@list.example" == error.message

    def test_a_message_is_one_short_line(self):
        ((error,), _) = read_delivery_errors(json.dumps([{"code": True, "message": "a\n\ud800" * 900}]).encode())

        assert ("", 300) == (error.code, len(error.message))
        assert error.message.startswith("a ?a ?")

    @pytest.mark.parametrize("body", [b"{}", b"7", b"<html>", b"[" * 100_000])
    def test_a_body_without_a_list_is_a_bad_payload(self, body):
        with pytest.raises(BadPayloadError):
            read_delivery_errors(body)

    def test_receipts_are_cut_to_domains(self):
        payload = {
            "receipts": [{"to": {"address": "jane@example.com"}, "status": "Delivered"}, {"recipient": "x@b.example"}]
        }

        assert [Receipt("example.com", "DELIVERED", "", ""), Receipt("b.example", "", "", "")] == read_receipts(
            json.dumps(payload).encode()
        )[0]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [*ENTRY, "operationId", "emails", "errors", "code", "message", "pagination", "next", "meta", "key"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


class TestFuzz:
    """Whatever the API sends, it is read, or it is a bad payload."""

    @pytest.mark.parametrize("read", [read_email_page, read_email, read_delivery_errors, read_receipts])
    @given(data=st.data())
    def test_any_json_and_any_bytes_are_survived(self, read, data):
        bodies = st.binary() | ANYTHING.map(lambda value: json.dumps(value).encode())
        with contextlib.suppress(BadPayloadError):
            read(data.draw(bodies))

    @given(changes=st.dictionaries(st.sampled_from([*ENTRY, "operationId"]), ANYTHING))
    def test_any_member_may_be_anything(self, changes):
        page = read_email_page(json.dumps({"emails": [ENTRY | changes, ENTRY]}).encode())

        assert EMAIL in page.emails
        assert 2 == len(page.emails) + len(page.malformed)


TIMES = (
    st.none()
    | st.datetimes().map(lambda moment: f"{moment.isoformat()}Z")
    | st.sampled_from(
        ["2026-11-21T12:00:00", "2026-11-21t12:00:00.123456789z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.9Z"]
    )
)
ADDRESSES = st.builds(
    dict, address=st.sampled_from(["jane@A.example", "Jane <j@b.example>", "jane", "j@é.example"]) | st.none()
)
RELATIONS = st.fixed_dictionaries(
    {}, optional={key: st.sampled_from(["OPERATION", "operation", "x", "", "\n"]) for key in ("id", "name", "type")}
)
TAGS = st.text(st.characters() | st.sampled_from("@\n"), max_size=3) | st.sampled_from(["x" * 128, "x" * 129])
ENTRIES = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["a", "é", "\n", "", "x" * 128, "x" * 129]),
        "status": st.sampled_from(["SENT", "sent", "?"]),
    },
    optional={
        "from": st.none() | ADDRESSES,
        "to": st.none() | ADDRESSES | st.lists(ADDRESSES, max_size=2),
        "related": st.none() | st.lists(RELATIONS, max_size=2),
        "operationId": st.none() | st.sampled_from(["b", "\n"]),
        "tags": st.none() | st.dictionaries(TAGS, TAGS, max_size=2) | st.just({f"k{n}": "v" for n in range(11)}),
        "createdAt": TIMES,
        "updatedAt": TIMES,
    },
)


@given(
    st.lists(ENTRIES.map(lambda entry: ENTRY | entry) | ENTRIES, min_size=1, max_size=2),
    st.sampled_from(["emails", "data"]),
    st.sampled_from([{"pagination": {"next": "t"}}, {"meta": {"nextToken": "t"}}, {"nextPageToken": "t"}, {}]),
)
def test_the_fast_path_and_the_lenient_reader_agree(entries, key, envelope):
    body = json.dumps({key: entries, **envelope}).encode()

    assert _read_page_leniently(body) == read_email_page(body)
