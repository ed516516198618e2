"""The settings: for each one its name, type, default, help, and whether a change needs a restart.

A setting `area_some_name` is the flag `--area.some-name`, the variable `COMMS_EXPORTER_AREA_SOME_NAME` and the key
`area.some-name` of the config file.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, InstanceOf, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from comms_exporter.config.accounts import Account
from comms_exporter.config.email_providers import EmailProviders, parse_providers
from comms_exporter.config.values import (
    DatabaseUrl,
    ListenAddress,
    one_of,
    parse_base_url,
    parse_database_url,
    parse_email_collection,
    parse_failover_timeout,
    parse_listen_addresses,
    parse_name,
    parse_path,
    parse_positive_duration,
    parse_rate,
    parse_schema,
    parse_size,
    parse_state_path,
    parse_tag_keys,
    parse_telemetry_path,
    whole_number,
)

ENV_PREFIX = "COMMS_EXPORTER_"


def _setting(
    default: Any, placeholder: str, description: str, *, restart: bool = False, default_in_words: str = ""
) -> Any:
    """Describe a setting; *default* is written as a user would write it, *restart* says that a reload cannot change it."""
    return Field(
        default,
        title=placeholder,
        description=description,
        json_schema_extra={"restart": restart, "default_in_words": default_in_words},
    )


Duration = Annotated[float, BeforeValidator(parse_positive_duration)]
MaybePath = Annotated[Path | None, BeforeValidator(parse_path)]


class Settings(BaseSettings):
    """All settings, validated; if several sources set one, the first of them wins."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
        env_prefix=ENV_PREFIX,
    )

    account_name: Annotated[str | None, BeforeValidator(parse_name)] = _setting(
        "",
        "NAME",
        "Name of the account: the value of the account label.",
        default_in_words='the account SID, or "default" if there is none',
    )
    config_file: MaybePath = _setting("", "FILE", "YAML file with settings and accounts.", restart=True)
    config_check: bool = _setting(default=False, placeholder="", description="Validate the settings and exit.")
    api_base_url: Annotated[str, BeforeValidator(parse_base_url)] = _setting(
        "https://comms.twilio.com/v1", "URL", "Base URL of the API."
    )
    api_timeout: Duration = _setting("30s", "DURATION", "Timeout of one API request.")
    api_page_size: Annotated[int, BeforeValidator(whole_number(1, 1000))] = _setting(
        "1000", "NUMBER", "Operations per page of a listing."
    )
    api_max_requests_per_second: Annotated[float, BeforeValidator(parse_rate)] = _setting(
        "5", "NUMBER", "Maximum rate of API requests, per account."
    )
    api_ca_file: MaybePath = _setting(
        "",
        "FILE",
        "PEM file with the CA certificates to trust instead of the system's.",
        restart=True,
    )
    collect_interval: Duration = _setting("30s", "DURATION", "Interval between polls of an account.")
    collect_active_window: Duration = _setting(
        "1h", "DURATION", "How long a finished operation keeps its own series after its last change."
    )
    collect_operations: Annotated[
        Literal["active", "troubled", "none"], BeforeValidator(one_of("active", "troubled", "none"))
    ] = _setting(
        "active",
        "WHICH",
        "Which operations have their own series: active (unfinished, or changed recently), troubled (of "
        "those, the unfinished ones and those that lost emails) or none. The totals of the account include all operations.",
    )
    collect_max_operations: Annotated[int, BeforeValidator(whole_number(0, 1_000_000_000))] = _setting(
        "1000",
        "NUMBER",
        "Maximum number of operations per account that have their own series, 17 per operation, and that the status page lists. "
        "If there are more, those in progress come first, then those that lost the most emails, then those that wait for their "
        "scheduled time, then those that changed most recently. "
        "0 disables these series.",
    )
    collect_max_tracked_operations: Annotated[int, BeforeValidator(whole_number(1, 1_000_000_000))] = _setting(
        "100000",
        "NUMBER",
        "Maximum number of operations to track per account. It must cover a week of operations, at up to 1.5 kB of memory "
        "each; a poll that finds more fails.",
    )
    collect_stats_reading: Annotated[
        Literal["auto", "cumulative", "exclusive"], BeforeValidator(one_of("auto", "cumulative", "exclusive"))
    ] = _setting(
        "auto",
        "READING",
        "How to interpret the API's counters: whether a delivered email still counts as sent (cumulative) or not "
        "(exclusive). auto decides for each operation.",
    )
    emails_collect: Annotated[Literal["off", "lost", "all"], BeforeValidator(parse_email_collection)] = _setting(
        "off",
        "WHICH",
        "Which single emails to collect, to count them by mailbox provider, sender domain and tag: off, lost (those that "
        "failed or were not delivered, and inbound ones) or all.",
        restart=True,
    )
    emails_interval: Duration = _setting(
        "5m",
        "DURATION",
        "Interval between rounds of listing emails. Emails of operations whose counters have not changed are not listed.",
    )
    emails_tags: Annotated[tuple[str, ...], BeforeValidator(parse_tag_keys), NoDecode] = _setting(
        "", "KEYS", "Keys of the tags to count emails by, separated by commas."
    )
    emails_max_values: Annotated[int, BeforeValidator(whole_number(1, 1000))] = _setting(
        "20",
        "NUMBER",
        "Maximum number of sender domains, and of values of each tag, to count emails by, per account. The first to lose "
        "emails get series and keep them; all others are counted as other.",
    )
    emails_log: bool = _setting(default=False, placeholder="", description="Log a line for each lost email.")
    emails_errors: bool = _setting(
        default=False,
        placeholder="",
        description="Request the errors of operations with failed emails, and count them by code.",
    )
    # Only in the config file.
    emails_providers: Annotated[EmailProviders, BeforeValidator(parse_providers), NoDecode] = ()
    state_url: Annotated[InstanceOf[DatabaseUrl] | None, BeforeValidator(parse_database_url)] = _setting(
        "",
        "URL",
        "PostgreSQL database for the state, instead of the state file. All exporters with the same database and schema share "
        "their accounts. COMMS_EXPORTER_STATE_URL_FILE is the path of a file that contains the URL.",
        restart=True,
    )
    state_schema: Annotated[str, BeforeValidator(parse_schema)] = _setting(
        "comms_exporter", "NAME", "Schema for the tables in the database.", restart=True
    )
    state_failover_timeout: Annotated[float, BeforeValidator(parse_failover_timeout)] = _setting(
        "30s",
        "DURATION",
        "With a database, the time within which others take over the accounts of an exporter that died.",
        restart=True,
    )
    # After the URL, which takes its place.
    state_path: Annotated[Path | None, BeforeValidator(parse_state_path)] = _setting(
        "",
        "FILE",
        "State file. If empty, no state is kept across restarts.",
        restart=True,
        default_in_words="$XDG_STATE_HOME/comms-exporter/state.db, else ~/.local/state/comms-exporter/state.db",
    )
    record_file: Annotated[Path | None, BeforeValidator(parse_state_path)] = _setting(
        "",
        "FILE",
        "File to which every change that the API returns is appended, as JSON lines. If empty, nothing is recorded.",
        restart=True,
    )
    record_max_size: Annotated[int, BeforeValidator(parse_size)] = _setting(
        "10GB", "SIZE", "Size at which the recording ends. Later changes are not recorded.", restart=True
    )
    web_listen_address: Annotated[tuple[ListenAddress, ...], BeforeValidator(parse_listen_addresses), NoDecode] = (
        _setting(":10067", "ADDRESS", "Address to listen on. Repeatable.", restart=True)
    )
    web_systemd_socket: bool = _setting(
        default=False,
        placeholder="",
        description="Use the sockets passed by systemd (socket activation) instead of --web.listen-address.",
        restart=True,
    )
    web_telemetry_path: Annotated[str, BeforeValidator(parse_telemetry_path)] = _setting(
        "/metrics", "PATH", "Path under which to expose metrics.", restart=True
    )
    web_max_requests: Annotated[int, BeforeValidator(whole_number(0, 1_000_000))] = _setting(
        "40",
        "NUMBER",
        "Maximum number of scrapes at a time; more get a 503. 0 disables the limit.",
        restart=True,
    )
    web_disable_exporter_metrics: bool = _setting(
        default=False,
        placeholder="",
        description="Exclude metrics about the exporter's process (process_*, python_*). Without them, panels of CPU, "
        "memory and restarts stay empty, and CommsExporterCrashLooping detects missed scrapes, but no restarts.",
        restart=True,
    )
    web_config_file: MaybePath = _setting(
        "",
        "FILE",
        "Web config file that enables TLS or authentication, in the format of Prometheus exporter-toolkit.",
        restart=True,
    )
    log_level: Annotated[
        Literal["debug", "info", "warn", "error"],
        BeforeValidator(one_of("debug", "info", "warn", "error", aliases={"warning": "warn"})),
    ] = _setting("info", "LEVEL", "Minimum level to log: debug, info, warn or error.", restart=True)
    log_format: Annotated[Literal["logfmt", "json"], BeforeValidator(one_of("logfmt", "json"))] = _setting(
        "logfmt", "FORMAT", "Format of log lines: logfmt or json.", restart=True
    )
    shard_total: Annotated[int, BeforeValidator(whole_number(1, 10_000))] = _setting(
        "1", "NUMBER", "Number of exporters to split the accounts across, by account name."
    )
    # After the total, which bounds it.
    shard_index: Annotated[int, BeforeValidator(whole_number(0, 9_999))] = _setting(
        "0", "NUMBER", "Index of this exporter among them, starting at 0."
    )
    # After api_base_url, which it needs.
    accounts: Annotated[tuple[InstanceOf[Account], ...], NoDecode] = ()

    def __init__(self, *sources: PydanticBaseSettingsSource) -> None:
        super().__init__(sources=sources)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the sources as given, in their order."""
        sources: tuple[PydanticBaseSettingsSource, ...] = init_settings()["sources"]
        return sources

    @field_validator("shard_index")
    @classmethod
    def _bound_shard_index(cls, index: int, info: ValidationInfo) -> int:
        total = info.data.get("shard_total", index + 1)
        if index >= total:
            raise ValueError(f"{index} is not a shard of {total}; write a number from 0 to {total - 1}")
        return index

    @field_validator("state_path")
    @classmethod
    def _prefer_database(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return None if info.data.get("state_url") else path

    @field_validator("accounts")
    @classmethod
    def _give_base_url(cls, accounts: tuple[Account, ...], info: ValidationInfo) -> tuple[Account, ...]:
        shared = info.data.get("api_base_url", "")
        return tuple(replace(account, base_url=account.base_url or shared) for account in accounts)


# These are structures, which only the config file can hold.
IN_FILE_ONLY = frozenset({"accounts", "emails_providers"})
FIELDS: dict[str, FieldInfo] = {name: info for name, info in Settings.model_fields.items() if name not in IN_FILE_ONLY}

# The areas of settings, the first word of a name, as --help and the docs introduce them.
AREAS = {
    "account": "The account whose credentials are in the environment.",
    "config": "The config file: required for several accounts, optional for everything else.",
    "api": "Access to Twilio's API.",
    "collect": "What to collect, and how often.",
    "emails": "Single emails: how many are lost, by mailbox provider, sender domain and tag.",
    "state": "What is kept across restarts.",
    "record": "A recording of what the API returns, to replay it later.",
    "shard": "Splitting the accounts across several exporters.",
    "web": "How Prometheus and people reach the exporter.",
    "log": "What is logged to stderr, and how.",
}


def flag_of(name: str) -> str:
    """Return the flag of the setting *name*."""
    if name == "web_config_file":  # as in every other Prometheus exporter
        return "--web.config.file"
    return "--" + name.replace("_", ".", 1).replace("_", "-")


def variable_of(name: str) -> str:
    """Return the environment variable of the setting *name*."""
    return ENV_PREFIX + name.upper()


def key_of(name: str) -> str:
    """Return the key of the setting *name* in the config file."""
    return flag_of(name).removeprefix("--")


def needs_restart(name: str) -> bool:
    """Whether a reload cannot change the setting *name*."""
    extra = Settings.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and bool(extra["restart"])


def default_of(name: str) -> str:
    """Return the default of the setting *name* in words, empty where there is none."""
    extra = FIELDS[name].json_schema_extra
    words = extra["default_in_words"] if isinstance(extra, dict) else ""
    return str(words or FIELDS[name].default or "")


def parse_as(name: str) -> Callable[[object], object]:
    """Return the parser of the values of the setting *name*."""
    return next(each.func for each in FIELDS[name].metadata if isinstance(each, BeforeValidator))  # type: ignore[return-value]
