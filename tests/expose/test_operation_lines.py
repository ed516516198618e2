"""The lines of single operations are those that prometheus_client would render."""

from expose.pages import LibraryCollector, account_with, make_exposition
from hypothesis import given
from hypothesis import strategies as st
from operations import operation, page_of
from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry

from comms_exporter.expose.operation_lines import operation_lines
from comms_exporter.model.operations import STATUSES, Operation, pack

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
counts = st.none() | st.integers(0, 2**53)
operations = st.builds(
    Operation,
    words,
    st.sampled_from(STATUSES) | words,
    st.floats(0, 4e9),
    st.floats(0, 4e9),
    st.lists(counts, min_size=11, max_size=11).map(tuple).map(pack),
)


@given(words, st.lists(operations, max_size=4, unique_by=lambda each: each.id))
def test_operations_are_rendered_as_prometheus_client_renders_them(name, shown):
    account = account_with(*shown)
    account.name = name
    registry = CollectorRegistry()
    registry.register(LibraryCollector(name, shown))

    page = page_of(make_exposition(account))

    assert page.endswith(generate_latest(registry))


def test_account_names_and_ids_are_escaped():
    (lines, *_) = operation_lines('a"b\\c\nd', [operation('x"y\\z')])

    assert r'{account="a\"b\\c\nd",operation_id="x\"y\\z",status="SCHEDULED"} 0.0' in lines
