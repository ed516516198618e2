"""The PromQL that the dashboards share.

Two exporters that watch one account, or one exporter that comes back under another address, say the same thing twice:
so everything is first `max by (job, account, ...)`, and only then summed.
"""

EXPORTER = 'job=~"$job", instance=~"$instance"'
ACCOUNT = f'{EXPORTER}, account=~"$account"'
OPERATION = f'{ACCOUNT}, operation_id=~"$operation_id"'

# How every email ends, once it was accepted.
OUTCOMES = ("delivered", "undelivered", "failed")
# What shares are taken of, as the alert rules take them: failures, of what Twilio was done with at its own end.
OF = {"failed": ("sent", "failed"), "undelivered": OUTCOMES, "delivered": OUTCOMES}


def exporter(expr: str) -> str:
    """Keep of *expr* what an exporter of ours says of itself: All jobs are all that Prometheus scrapes."""
    # A day's memory, so that one that is down is still known.
    return f"{expr} and on (job, instance) max_over_time(comms_exporter_build_info{{{EXPORTER}}}[1d])"


def account(metric: str, more: str = "") -> str:
    """Select *metric* for the chosen accounts."""
    return f"{metric}{{{_matchers(ACCOUNT, more)}}}"


def operation(metric: str, more: str = "") -> str:
    """Select *metric* for the chosen operations."""
    return f"{metric}{{{_matchers(OPERATION, more)}}}"


def once(expr: str, *labels: str) -> str:
    """Let *expr* say everything once per account, and per value of *labels*."""
    return f"max by ({', '.join(('job', 'account', *labels))}) ({expr})"


def total(expr: str, *labels: str, by: tuple[str, ...] = ()) -> str:
    """Sum up *expr*, a value for each account and each of *labels*, by some of these."""
    grouping = f" by ({', '.join(by)})" if by else ""
    return f"sum{grouping} ({once(expr, *labels)})"


def per_minute(metric: str, *labels: str) -> str:
    """Return how much a counter of the chosen accounts grows in a minute, by *labels*."""
    return f"{total(f'rate({account(metric)}[$__rate_interval])', *labels, by=labels)} * 60"


def grown(metric: str, window: str, *, by: tuple[str, ...] = ()) -> str:
    """Return by how much a counter of the chosen accounts has grown within *window*."""
    return total(f"increase({account(metric)}[{window}])", by=by)


def share(name: str, window: str, *, by: tuple[str, ...] = (), least: int = 0) -> str:
    """Return the share of *name* within *window*: a gap where it would be one of no more than *least* emails."""
    whole = " + ".join(f"increase({account(f'comms_emails_{each}_total')}[{window}])" for each in OF[name])
    return f"{grown(f'comms_emails_{name}_total', window, by=by)} / ({total(whole, by=by)} > {least})"


def opened(window: str, *, by: tuple[str, ...] = ()) -> str:
    """Return opened per delivered within *window*: a gap where none was delivered."""
    return (
        f"{grown('comms_emails_opened_total', window, by=by)}"
        f" / ({grown('comms_emails_delivered_total', window, by=by)} > 0)"
    )


def age(timestamps: str) -> str:
    """Return the seconds since each of *timestamps*; nothing where that is 0, which means never."""
    return f"time() - ({timestamps} > 0)"


def _matchers(*matchers: str) -> str:
    return ", ".join(filter(None, matchers))
