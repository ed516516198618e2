"""What scrapes may see of an account's emails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from comms_exporter.model.email_records import Counts, Series
from comms_exporter.model.histogram import Exemplar, Histogram


@dataclass(slots=True, eq=False, kw_only=True)
class EmailsView:
    """The published part of the state; each view is equal only to itself.

    *all_stages* says whether more than losses are counted, *tag_keys* which tags are, *unattributed* has the number of missing
    emails by outcome.
    """

    all_stages: bool
    providers: Sequence[str]
    tag_keys: Sequence[str]
    with_errors: bool
    counts: Mapping[Series, Counts]
    exemplars: Mapping[tuple[Series, int], Exemplar]
    inbound: int
    delays: Histogram
    unattributed: Mapping[str, int]
    tracked: int
