"""Pages are parsed leniently: a malformed entry does not fail its page."""

import json
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comms_exporter.api.payloads import (
    BadPayloadError,
    MalformedEntryError,
    Page,
    _read_page_leniently,
    decode,
    read_operation,
    read_page,
    read_single,
)
from comms_exporter.model.operations import STATS, Operation, pack

# https://docs.comms.twilio.com/comms-api-reference/emails/fetch-operation
SAMPLE = {
    "id": "comms_operation_01h9krwprkeee8fzqspvwy6nq8",
    "status": "COMPLETED",
    "stats": {
        "total": 3,
        "recipients": 3,
        "attempts": 3,
        "queued": 0,
        "sent": 3,
        "scheduled": 0,
        "delivered": 3,
        "opened": 2,
        "undelivered": 0,
        "failed": 0,
        "canceled": 0,
    },
    "createdAt": "2024-04-10T09:15:00Z",
    "updatedAt": "2024-04-10T09:45:00Z",
}


def sample(**changes):
    return {**SAMPLE, **changes}


def as_body(payload):
    return json.dumps(payload).encode()


class TestOperation:
    def test_reads_the_published_sample(self):
        unknown = Counter()

        operation = read_operation(SAMPLE, unknown)

        assert (
            Operation(
                "comms_operation_01h9krwprkeee8fzqspvwy6nq8",
                "COMPLETED",
                1712740500.0,
                1712742300.0,
                pack((3, 3, 3, 0, 0, 3, 3, 2, 0, 0, 0)),
            )
            == operation
        )
        assert not unknown

    def test_a_missing_counter_is_none_not_zero(self):
        """The sample in the tracking guide has nine of the eleven counters."""
        stats = {name: 1 for name in STATS if name not in {"recipients", "attempts"}}

        operation = read_operation(sample(stats=stats), Counter())

        assert (1, None, None, 1, 1, 1, 1, 1, 1, 1, 1) == operation.stats

    @pytest.mark.parametrize(
        ("text", "epoch"),
        [
            ("2024-04-10T09:15:00Z", 1712740500.0),
            ("2024-04-10T09:15:00.25Z", 1712740500.25),
            ("2024-04-10T09:15:00.123456789Z", 1712740500.123457),
            ("2024-04-10T11:15:00+02:00", 1712740500.0),
            ("2024-04-10t09:15:00z", 1712740500.0),
            ("2024-04-10T09:15:00", 1712740500.0),
        ],
    )
    def test_reads_every_time_format(self, text, epoch):
        assert epoch == read_operation(sample(createdAt=text), Counter()).created

    def test_a_status_is_converted_to_upper_case(self):
        assert read_operation(sample(status="completed"), Counter()).status == "COMPLETED"

    def test_an_unknown_status_is_kept_and_counted_and_means_unfinished(self):
        unknown = Counter()

        operation = read_operation(sample(status="PAUSED"), unknown)

        assert operation.status == "PAUSED"
        assert operation.unfinished
        assert {"status": 1} == unknown

    def test_unknown_fields_and_counters_are_counted(self):
        unknown = Counter()

        read_operation(sample(color="red", size=1, stats={**SAMPLE["stats"], "unsubscribed": 4}), unknown)

        assert {"operation": 2, "stats": 1} == unknown

    @pytest.mark.parametrize(
        ("raw", "message"),
        [
            (None, "an operation is a JSON null, not an object"),
            (["a"], "an operation is a JSON array, not an object"),
            (sample(id=None), "id is a JSON null, not a string"),
            (sample(id=""), "id is empty, too long or contains control characters"),
            (sample(id="x" * 257), "id is empty, too long or contains control characters"),
            (sample(id="\ud800"), "id is empty, too long or contains control characters"),
            (sample(status=7), "status is a JSON number, not a string"),
            (sample(stats=None), "stats is a JSON null, not an object"),
            (sample(stats={"sent": -1}), "stats contains a number that is not a count"),
            (sample(stats={"sent": 10**30}), "stats contains a number that is not a count"),
            (sample(stats={"sent": "3"}), "stats.sent is a JSON string, not a count"),
            (sample(stats={"sent": True}), "stats.sent is a JSON boolean, not a count"),
            (sample(stats={"sent": 2.5}), "stats.sent is a JSON number, not a count"),
            (sample(stats={"sent": float("nan")}), "stats.sent is a JSON number, not a count"),
            (sample(stats={"sent": float("inf")}), "stats.sent is a JSON number, not a count"),
            (sample(createdAt=1712740500), "createdAt is a JSON number, not a string"),
            (sample(createdAt="yesterday"), "createdAt is not an RFC 3339 time"),
            (sample(updatedAt="2024-13-10T09:15:00Z"), "updatedAt is not an RFC 3339 time"),
        ],
    )
    def test_the_message_names_the_malformed_field(self, raw, message):
        with pytest.raises(MalformedEntryError, match="^" + message.replace("(", r"\(") + "$"):
            read_operation(raw, Counter())

    def test_a_count_may_be_written_as_a_float(self):
        assert read_operation(sample(stats={"sent": 3.0}), Counter()).stats[5] == 3


class TestPage:
    @pytest.mark.parametrize(
        ("payload", "following"),
        [
            ({"operations": [SAMPLE], "pagination": {"next": "abc", "self": "x"}}, "abc"),
            ({"operations": [SAMPLE], "pagination": {"next": None, "self": "x"}}, None),
            ({"operations": [SAMPLE], "pagination": {"next": ""}}, None),
            ({"operations": [SAMPLE]}, None),
            ({"data": [SAMPLE], "pagination": {"nextPageToken": "abc", "pageSize": 50}}, "abc"),
            ({"data": [SAMPLE], "pagination": {"nextPageToken": None, "pageSize": 50}}, None),
            ({"meta": {"key": "things", "nextToken": "abc"}, "things": [SAMPLE], "others": []}, "abc"),
            ({"things": [SAMPLE], "nextPageToken": "abc"}, "abc"),
        ],
    )
    def test_reads_every_published_page_format(self, payload, following):
        page = read_page(as_body(payload))

        assert [SAMPLE["id"]] == [each.id for each in page.operations]
        assert following == page.next

    @pytest.mark.parametrize(
        "payload",
        [
            None,
            [],
            "x",
            1,
            {},
            {"operations": None},
            {"a": [], "b": []},
            {"operations": [], "pagination": {"next": 7}},
        ],
    )
    def test_rejects_a_body_that_is_not_a_page(self, payload):
        with pytest.raises(BadPayloadError):
            read_page(as_body(payload))

    def test_a_malformed_operation_is_skipped(self):
        page = read_page(as_body({"operations": [sample(id="a"), {"id": "b"}, 7, sample(id="c")]}))

        assert ["a", "c"] == [each.id for each in page.operations]
        assert ["status is a JSON null, not a string", "an operation is a JSON number, not an object"] == page.malformed


class TestDecode:
    @pytest.mark.parametrize(
        "body", [b"", b"{", b'{"a": ', b"<html>", b"\xff\xfe\xfd", b"[" * 200_000, b'"\\ud8"', b"nul"]
    )
    def test_rejects_invalid_json(self, body):
        with pytest.raises(BadPayloadError):
            decode(body)

    def test_a_number_of_thousands_of_digits_does_not_fail_the_page(self):
        assert [float("inf"), 12] == decode(b"[" + b"9" * 5000 + b", 12]")

    def test_accepts_a_byte_order_mark(self):
        assert {} == decode(b"\xef\xbb\xbf{}")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
malformed = st.builds(
    lambda key, value: {**SAMPLE, key: value}, st.sampled_from([*SAMPLE, "extra"]), json_values
) | st.builds(
    lambda key, value: {**SAMPLE, "stats": {**SAMPLE["stats"], key: value}}, st.sampled_from([*STATS, "x"]), json_values
)


@given(st.lists(malformed | json_values, max_size=5))
def test_valid_operations_are_read_beside_any_others(entries):
    good = sample(id="good")

    page = read_page(as_body({"operations": [*entries, good]}))

    assert "good" in [each.id for each in page.operations]
    assert len(entries) + 1 == len(page.operations) + len(page.malformed)


@given(json_values)
def test_any_body_is_a_page_or_raises_bad_payload_error(payload):
    with suppress(BadPayloadError):
        assert isinstance(read_page(as_body(payload)), Page)


documented = st.builds(
    lambda name, status, counters, created, updated: {
        "id": name,
        "status": status,
        "stats": counters,
        "createdAt": created,
        "updatedAt": updated,
    },
    st.text(max_size=20),
    st.sampled_from(["SCHEDULED", "PROCESSING", "COMPLETED", "CANCELED", "completed", "PAUSED"]),
    st.dictionaries(st.sampled_from(STATS), st.none() | st.integers(-1, 2**53 + 1)),
    *[st.datetimes().map(lambda moment: f"{moment.isoformat()}Z") | st.sampled_from([
        "2024-04-10T09:15:00.123456789Z", "2024-04-10t09:15:00z", "2024-04-10 09:15:00+02:00", "2024-04-10T09:15:00",
        "0001-01-01T00:00:00+14:00", "2024-02-30T00:00:00Z", "2024-04-10T24:00:00Z"])] * 2,
)  # fmt: skip


@given(
    st.lists(documented | malformed, max_size=3),
    st.sampled_from(["operations", "data"]),
    st.none() | st.text(max_size=3),
)
def test_the_fast_path_and_the_lenient_reader_agree(entries, key, token):
    """What is read of an entry does not depend on the other entries of its page."""
    body = as_body({key: entries, "pagination": {"next": token}})
    page = read_page(body)

    assert page == _read_page_leniently(body)
    singles = [read_single(as_body(each)) for each in entries]
    assert page.operations == [operation for single in singles for operation in single.operations]
    assert page.malformed == [message for single in singles for message in single.malformed]


def test_the_fast_path_accepts_no_other_encoding():
    body = json.dumps({"operations": [sample(id="\xe4")]}, ensure_ascii=False).encode("latin-1")
    with pytest.raises(BadPayloadError):
        read_page(body)


def test_the_fast_path_reads_the_published_sample(monkeypatch):
    def never(body):
        raise AssertionError("the lenient reader was used")

    monkeypatch.setattr("comms_exporter.api.payloads.decode", never)

    assert [SAMPLE["id"]] == [each.id for each in read_page(as_body({"operations": [SAMPLE]})).operations]
