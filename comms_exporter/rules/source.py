"""The rule files as they are shipped, and the names in them that a configuration can use.

The files are links to deploy/prometheus: there is one copy of every rule.
"""

import re
from functools import cache
from importlib import resources

RECORDINGS = "comms-exporter.rules.yml"
ALERTS = "comms-exporter.alerts.yml"
FILES = (RECORDINGS, ALERTS)
# What the shipped files say, and a configuration changes.
JOB = "comms-exporter"
RUNBOOKS = "docs/runbooks/"
# The error budget of the delivery objective.
BUDGET = "comms_emails_lost:ratio_budget"
# Not a threshold but the version of the file.
_VERSION = "comms_rules:version"


@cache
def shipped(name: str) -> str:
    """Return the text of the rule file *name*."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def thresholds() -> tuple[str, ...]:
    """Return the names of all thresholds, without `threshold:`."""
    names = re.findall(r"^ +- record: threshold:(\S+)$", shipped(RECORDINGS), re.MULTILINE)
    return tuple(name for name in names if name != _VERSION)


@cache
def thresholds_by_account() -> tuple[str, ...]:
    """Return the names of the thresholds that an account can have for itself."""
    return tuple(re.findall(r"^ +- record: account:threshold_(\S+)$", shipped(RECORDINGS), re.MULTILINE))


@cache
def alerts() -> tuple[str, ...]:
    """Return the names of all alerts."""
    return tuple(dict.fromkeys(re.findall(r"^ +- alert: (\w+)$", shipped(ALERTS), re.MULTILINE)))
