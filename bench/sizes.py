"""The sizes of all measurements: FULL for figures, QUICK for a smoke test."""

from dataclasses import dataclass
from typing import NamedTuple


class ScrapeSize(NamedTuple):
    """The number of exposed operations and of scrapes; prometheus_client is slow and gets fewer of them."""

    operations: int
    rounds: int
    prometheus_client_rounds: int
    block: int


class Growth(NamedTuple):
    """An exporter to measure: what it polls, and the share that changes between two polls."""

    operations: int
    accounts: int = 1
    changed: float = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """The sizes for each part of the benchmark."""

    interval: str
    scrape: tuple[ScrapeSize, ...]
    stall_operations: int
    stall_seconds: float
    poll_operations: int
    poll_interval: str
    polls: int
    memory: tuple[int, ...]  # the first is the baseline
    memory_exposed: int
    emails: tuple[int, ...]  # the first is the baseline
    emails_unchanged: int
    saving_operations: int
    saving_changed: tuple[int, ...]
    saving_interval: str
    databases_operations: int
    million_operations: int
    million_first_interval: str
    million_interval_seconds: int
    million_scrapes: int
    growth_operations: tuple[Growth, ...]
    growth_changed: tuple[Growth, ...]
    growth_accounts: tuple[Growth, ...]
    growth_scrapers: tuple[int, ...]
    growth_scraped: int
    growth_polls: int
    growth_block: int
    accounts: tuple[tuple[int, float], ...]  # and the interval between polls in seconds
    accounts_operations: int
    churn_senders: tuple[int, ...]  # in operations per week
    churn_history: int  # in seconds
    churn_polls: int  # twice
    churn_limit: int
    churn_interval: str


FULL = Sizes(
    interval="1s",
    scrape=(ScrapeSize(1_000, 100, 10, 100), ScrapeSize(10_000, 30, 4, 25), ScrapeSize(60_000, 11, 1, 5)),
    stall_operations=10_000,
    stall_seconds=10,
    poll_operations=100_000,
    poll_interval="2s",
    polls=3,
    memory=(100, 100_000, 1_000_000),
    memory_exposed=100_000,
    emails=(1_000, 100_000, 1_000_000),
    emails_unchanged=50_000,
    saving_operations=200_000,
    saving_changed=(1_000, 10_000, 100_000),
    saving_interval="2s",
    databases_operations=1_000_000,
    million_operations=60_000,
    million_first_interval="60s",
    million_interval_seconds=8,
    million_scrapes=5,
    growth_operations=(Growth(1_000), Growth(10_000), Growth(60_000)),
    growth_changed=(Growth(10_000, changed=0), Growth(10_000), Growth(10_000, changed=0.1), Growth(10_000, changed=1)),
    growth_accounts=(Growth(10_000, 1), Growth(10_000, 10), Growth(10_000, 50)),
    growth_scrapers=(1, 4, 16),
    growth_scraped=10_000,
    growth_polls=4,
    growth_block=20,
    accounts=((50, 30), (1_000, 30), (5_000, 60)),
    accounts_operations=10,
    churn_senders=(1_000, 50_000, 1_000_000),
    churn_history=3 * 3600,
    churn_polls=120,
    churn_limit=1000,
    churn_interval="500ms",
)

QUICK = Sizes(
    interval="100ms",
    scrape=(ScrapeSize(20, 4, 2, 3), ScrapeSize(300, 3, 1, 2)),
    stall_operations=200,
    stall_seconds=0.3,
    poll_operations=300,
    poll_interval="100ms",
    polls=1,
    memory=(10, 200, 400),
    memory_exposed=200,
    emails=(10, 300),
    emails_unchanged=100,
    saving_operations=300,
    saving_changed=(10, 100),
    saving_interval="100ms",
    databases_operations=2_000,
    million_operations=100,
    million_first_interval="1s",
    million_interval_seconds=1,
    million_scrapes=2,
    growth_operations=(Growth(20), Growth(100)),
    growth_changed=(Growth(100), Growth(100, changed=1)),
    growth_accounts=(Growth(100, 1), Growth(100, 5)),
    growth_scrapers=(1, 3),
    growth_scraped=100,
    growth_polls=1,
    growth_block=2,
    accounts=((2, 1), (20, 1)),
    accounts_operations=3,
    churn_senders=(10_000,),
    churn_history=3600,
    churn_polls=10,
    churn_limit=50,
    churn_interval="100ms",
)
