"""What the API says is read leniently: the worst entry of a page costs itself."""

import json
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comms_exporter.models import (
    STATS,
    BadPayloadError,
    MalformedOperationError,
    Operation,
    Page,
    decode,
    read_operation,
    read_page,
)

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
                (3, 3, 3, 0, 0, 3, 3, 2, 0, 0, 0),
            )
            == operation
        )
        assert not unknown

    def test_a_missing_counter_is_unknown_rather_than_zero(self):
        """The tracking guide's sample has nine of the eleven."""
        stats = {name: 1 for name in STATS if name not in {"recipients", "attempts"}}

        operation = read_operation(sample(stats=stats), Counter())

        assert (1, None, None, 1, 1, 1, 1, 1, 1, 1, 1) == operation.stats

    @pytest.mark.parametrize(
        ("text", "epoch"),
        [
            ("2024-04-10T09:15:00Z", 1712740500.0),
            ("2024-04-10T09:15:00.25Z", 1712740500.25),
            ("2024-04-10T09:15:00.123456789Z", 1712740500.123456),
            ("2024-04-10T11:15:00+02:00", 1712740500.0),
            ("2024-04-10t09:15:00z", 1712740500.0),
            ("2024-04-10T09:15:00", 1712740500.0),
        ],
    )
    def test_reads_every_way_to_write_a_time(self, text, epoch):
        assert epoch == read_operation(sample(createdAt=text), Counter()).created

    def test_status_is_compared_in_upper_case(self):
        assert read_operation(sample(status="completed"), Counter()).status == "COMPLETED"

    def test_an_unknown_status_is_kept_counted_and_not_final(self):
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
        ("raw", "complaint"),
        [
            (None, "an operation is a JSON null, not an object"),
            (["a"], "an operation is a JSON array, not an object"),
            (sample(id=None), "id is a JSON null, not a string"),
            (sample(id=""), "id is empty, too long or not text"),
            (sample(id="x" * 257), "id is empty, too long or not text"),
            (sample(id="\ud800"), "id is empty, too long or not text"),
            (sample(status=7), "status is a JSON number, not a string"),
            (sample(stats=None), "stats is a JSON null, not an object"),
            (sample(stats={"sent": -1}), "stats holds a number that is no count"),
            (sample(stats={"sent": 10**30}), "stats holds a number that is no count"),
            (sample(stats={"sent": "3"}), "stats.sent is a JSON string, not a count"),
            (sample(stats={"sent": True}), "stats.sent is a JSON boolean, not a count"),
            (sample(stats={"sent": 2.5}), "stats.sent is a JSON number, not a count"),
            (sample(stats={"sent": float("nan")}), "stats.sent is a JSON number, not a count"),
            (sample(stats={"sent": float("inf")}), "stats.sent is a JSON number, not a count"),
            (sample(createdAt=1712740500), "createdAt is a JSON number, not a string"),
            (sample(createdAt="yesterday"), "createdAt is no RFC 3339 time"),
            (sample(updatedAt="2024-13-10T09:15:00Z"), "updatedAt is no RFC 3339 time"),
        ],
    )
    def test_says_what_is_wrong_with_an_entry(self, raw, complaint):
        with pytest.raises(MalformedOperationError, match="^" + complaint.replace("(", r"\(") + "$"):
            read_operation(raw, Counter())

    def test_a_whole_number_may_be_written_as_a_float(self):
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
    def test_reads_every_published_envelope(self, payload, following):
        page = read_page(payload)

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
    def test_refuses_what_is_no_page(self, payload):
        with pytest.raises(BadPayloadError):
            read_page(payload)

    def test_a_malformed_operation_costs_only_itself(self):
        page = read_page({"operations": [sample(id="a"), {"id": "b"}, 7, sample(id="c")]})

        assert ["a", "c"] == [each.id for each in page.operations]
        assert ["status is a JSON null, not a string", "an operation is a JSON number, not an object"] == page.malformed


class TestDecode:
    @pytest.mark.parametrize(
        "body", [b"", b"{", b'{"a": ', b"<html>", b"\xff\xfe\xfd", b"[" * 200_000, b'"\\ud8"', b"nul"]
    )
    def test_refuses_what_is_no_json(self, body):
        with pytest.raises(BadPayloadError):
            decode(body)

    def test_an_endless_number_does_not_cost_the_page(self):
        assert [float("inf"), 12] == decode(b"[" + b"9" * 5000 + b", 12]")

    def test_a_byte_order_mark_is_let_pass(self):
        assert {} == decode(b"\xef\xbb\xbf{}")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
spoilt = st.builds(
    lambda key, value: {**SAMPLE, key: value}, st.sampled_from([*SAMPLE, "extra"]), json_values
) | st.builds(
    lambda key, value: {**SAMPLE, "stats": {**SAMPLE["stats"], key: value}}, st.sampled_from([*STATS, "x"]), json_values
)


@given(st.lists(spoilt | json_values, max_size=5))
def test_whatever_stands_in_a_page_its_good_operations_are_read(entries):
    good = sample(id="good")

    page = read_page(json.loads(json.dumps({"operations": [*entries, good]})))

    assert "good" in [each.id for each in page.operations]
    assert len(entries) + 1 == len(page.operations) + len(page.malformed)


@given(json_values)
def test_whatever_the_body_is_it_is_a_page_or_refused(payload):
    with suppress(BadPayloadError):
        assert isinstance(read_page(payload), Page)
