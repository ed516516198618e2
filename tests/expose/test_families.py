"""The metric table covers everything that is counted."""

import re
from collections import Counter

from expose.pages import newsletter, page_with, shop
from operations import NOW

from comms_exporter.collect.view import View
from comms_exporter.expose.families import LIVE, PUBLISHED, AccountMetric
from comms_exporter.model.records import TOTALS


def test_every_total_has_a_metric():
    account = shop()
    account.view = View(totals=tuple(range(1_000, 1_000 + len(TOTALS))))
    values = [metric.read(account, NOW) for metric in PUBLISHED if metric.type == "counter"]

    assert list(account.view.totals) == [getattr(value, "value", value) for value in values]


def test_every_metric_has_a_unit_or_a_suffix_that_fits_its_type():
    """A counter's name gets its _total when it is rendered."""
    names = [metric.name for metric in (*LIVE, *PUBLISHED)]

    assert sorted(set(names)) == sorted(names)
    assert [] == [name for name in names if name.endswith(("_total", "_count", "_sum", "_bucket"))]


def test_label_values_without_a_number_are_0():
    metric = AccountMetric(
        "toys", "counter", "Toys.", lambda *_: Counter(), label="color", label_values=("red", "blue")
    )

    samples = metric.family([("shop", {"blue": 2, "green": 1})]).samples

    assert [("red", 0), ("blue", 2), ("green", 1)] == [(each.labels["color"], each.value) for each in samples]


def test_documented_label_values_exist_before_the_first_poll():
    page = page_with(newsletter())

    assert 9 == len(re.findall(r"^comms_exporter_api_requests_total\{", page, re.MULTILINE))
    assert 10 == len(re.findall(r"^comms_exporter_poll_failures_total\{", page, re.MULTILINE))
