"""PromQL expressions that the dashboards share.

Two exporters of one account, or one exporter that moves to another address, expose the same values twice. So everything is
deduplicated with `max by (job, account, ...)` before it is summed.
"""

EXPORTER = 'job=~"$job", instance=~"$instance"'
ACCOUNT = f'{EXPORTER}, account=~"$account"'
RECORDED = 'job=~"$job", account=~"$account"'
OPERATION = f'{ACCOUNT}, operation_id=~"$operation_id"'

# The final states of an accepted email.
OUTCOMES = ("delivered", "undelivered", "failed")
# The denominators of shares; those of failures and bounces are those of the alerts.
OF = {"failed": ("sent", "failed"), "undelivered": ("sent",), "delivered": OUTCOMES}


def exporter(expr: str) -> str:
    """Restrict *expr* to comms-exporters: if *All* jobs are selected, it contains everything that Prometheus scrapes."""
    # Within a day, so that an exporter that is down is included.
    return f"{expr} and on (job, instance) max_over_time(comms_exporter_build_info{{{EXPORTER}}}[1d])"


def account(metric: str, more: str = "") -> str:
    """Select *metric* of the selected accounts."""
    return f"{metric}{{{_matchers(ACCOUNT, more)}}}"


def recorded(name: str, more: str = "") -> str:
    """Select a series of the recording rules for the chosen accounts: it belongs to no instance."""
    return f"{name}{{{_matchers(RECORDED, more)}}}"


def operation(metric: str, more: str = "") -> str:
    """Select *metric* of the selected operations."""
    return f"{metric}{{{_matchers(OPERATION, more)}}}"


def once(expr: str, *labels: str) -> str:
    """Return *expr* without duplicates: one series per account and value of *labels*."""
    return f"max by ({', '.join(('job', 'account', *labels))}) ({expr})"


def total(expr: str, *labels: str, by: tuple[str, ...] = ()) -> str:
    """Return the sum of *expr* without duplicates, grouped by *by*; *labels* are those of *expr* besides the account."""
    grouping = f" by ({', '.join(by)})" if by else ""
    return f"sum{grouping} ({once(expr, *labels)})"


def per_minute(metric: str, *labels: str) -> str:
    """Return the increase per minute of a counter of the selected accounts, grouped by *labels*."""
    return f"{total(f'rate({account(metric)}[$__rate_interval])', *labels, by=labels)} * 60"


def increased(metric: str, window: str, *, by: tuple[str, ...] = ()) -> str:
    """Return the increase of a counter of the selected accounts within *window*."""
    return total(f"increase({account(metric)}[{window}])", by=by)


def share(name: str, window: str, *, by: tuple[str, ...] = (), least: int = 0) -> str:
    """Return the share of *name* within *window*; nothing if the denominator is not above *least* emails."""
    if name == "failed":
        counted, *others = (
            f"increase({account(f'comms_emails_{each}_total')}[{window}])" for each in (name, *OF[name])
        )
    else:
        # Late bounces count with the emails that they belong to.
        counted, *others = (account(f"comms_emails_{each}_recent", f'window="{window}"') for each in (name, *OF[name]))
    return f"{total(counted, by=by)} / ({total(' + '.join(others), by=by)} > {least})"


def lost(window: str) -> str:
    """Return the share of the emails whose sending began within *window* that were lost; nothing if none has been handled."""
    failed, undelivered, sent = (
        account(f"comms_emails_{each}_recent", f'window="{window}"') for each in ("failed", "undelivered", "sent")
    )
    return f"{total(f'{failed} + {undelivered}')} / ({total(f'{failed} + {sent}')} > 0)"


def opened(window: str, *, by: tuple[str, ...] = ()) -> str:
    """Return opened per delivered emails within *window*; nothing if none was delivered."""
    return (
        f"{increased('comms_emails_opened_total', window, by=by)}"
        f" / ({increased('comms_emails_delivered_total', window, by=by)} > 0)"
    )


def age(timestamps: str) -> str:
    """Return the seconds since each of *timestamps*; nothing if it is 0, which means never."""
    return f"time() - ({timestamps} > 0)"


def _matchers(*matchers: str) -> str:
    return ", ".join(filter(None, matchers))
