"""Settings are merged in order of precedence; each invalid one is reported in one line that names it and says how to fix it."""

import dataclasses
import re
import traceback
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from comms_exporter import __version__
from comms_exporter.config import (
    Account,
    DatabaseUrl,
    ListenAddress,
    Settings,
    SettingsError,
    build_parser,
    describe,
    effective_settings_text,
    load,
    parse_base_url,
    parse_duration,
    parse_listen_address,
)

TOKEN = {"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "token"}
KEY = {"TWILIO_API_KEY": "SK1", "TWILIO_API_SECRET": "secret"}
HOME = {"HOME": "/home/me"}
CANARY = "c4n4ry5ecret"
patient = settings(deadline=None)  # a busy machine must not fail the test
NO_CREDENTIALS = (
    "no credentials: set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN, or TWILIO_API_KEY and TWILIO_API_SECRET, "
    "or list accounts in --config.file"
)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Return a function that writes config.yml to the current directory and returns the flag for it."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        Path("config.yml").write_text(text)
        return "--config.file=config.yml"

    return write


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a function that writes files to the folder accounts.d in the current directory."""
    monkeypatch.chdir(tmp_path)
    Path("accounts.d").mkdir()

    def write(files):
        for name, content in files.items():
            Path("accounts.d", name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def settings_error(argv, environ, **kwargs):
    with pytest.raises(SettingsError) as raised:
        load(argv, {**HOME, **environ}, **kwargs)
    return str(raised.value)


# For each setting (text, value) as a flag, in the environment, in the config file (as YAML), and by default.
SETTINGS = {
    "api_base_url": [
        ("http://flag:1/v1/", "http://flag:1/v1"),
        ("https://env", "https://env"),
        ("https://file/", "https://file"),
        (None, "https://comms.twilio.com/v1"),
    ],
    "api_timeout": [("1s", 1), ("2s", 2), ("3s", 3), (None, 30)],
    "api_page_size": [("1", 1), ("2", 2), ("3", 3), (None, 1000)],
    "api_max_requests_per_second": [("1", 1), ("0.5", 0.5), ("2.5", 2.5), (None, 5)],
    "collect_interval": [("1m", 60), ("2m", 120), ("3m", 180), (None, 30)],
    "collect_active_window": [("1h30m", 5400), ("2d", 172800), ("1w", 604800), (None, 3600)],
    "collect_operations": [("none", "none"), ("troubled", "troubled"), ("none", "none"), (None, "active")],
    "collect_max_operations": [("0", 0), ("2", 2), ("3", 3), (None, 1000)],
    "collect_max_tracked_operations": [("1", 1), ("2", 2), ("3", 3), (None, 100_000)],
    "collect_stats_reading": [
        ("cumulative", "cumulative"),
        ("exclusive", "exclusive"),
        ("cumulative", "cumulative"),
        (None, "auto"),
    ],
    "emails_collect": [("lost", "lost"), ("all", "all"), ("off", "off"), (None, "off")],
    "emails_interval": [("1m", 60), ("2m", 120), ("3m", 180), (None, 300)],
    "emails_tags": [
        ("campaign", ("campaign",)),
        ("campaign, two words,campaign", ("campaign", "two words")),
        ("[campaign, language]", ("campaign", "language")),
        (None, ()),
    ],
    "emails_max_values": [("1", 1), ("2", 2), ("1000", 1000), (None, 20)],
    "state_url": [
        ("postgresql://flag/db", DatabaseUrl("postgresql://flag/db")),
        ("postgres://env/db", DatabaseUrl("postgres://env/db")),
        ("postgresql://file/db?sslmode=require", DatabaseUrl("postgresql://file/db?sslmode=require")),
        (None, None),
    ],
    "state_schema": [("flag", "flag"), ("env", "env"), ("file", "file"), (None, "comms_exporter")],
    "state_failover_timeout": [("5s", 5), ("1m", 60), ("1h", 3600), (None, 30)],
    "state_path": [
        ("flag.db", Path("flag.db")),
        ("/env.db", Path("/env.db")),
        ("/file.db", Path("/file.db")),
        (None, Path("/home/me/.local/state/comms-exporter/state.db")),
    ],
    "record_file": [
        ("flag.jsonl", Path("flag.jsonl")),
        ("/env.jsonl", Path("/env.jsonl")),
        ("/file.jsonl", Path("/file.jsonl")),
        (None, None),
    ],
    "record_max_size": [("1B", 1), ("5MB", 5 * 2**20), ("2TB", 2**41), (None, 10 * 2**30)],
    "web_listen_address": [
        (":1", (ListenAddress(None, 1, ":1"),)),
        (":2, [::1]:3", (ListenAddress(None, 2, ":2"), ListenAddress("::1", 3, "[::1]:3"))),
        ("[':4', 'host:5']", (ListenAddress(None, 4, ":4"), ListenAddress("host", 5, "host:5"))),
        (None, (ListenAddress(None, 10067, ":10067"),)),
    ],
    "api_ca_file": [
        ("flag.pem", Path("flag.pem")),
        ("env.pem", Path("env.pem")),
        ("/file.pem", Path("/file.pem")),
        (None, None),
    ],
    "shard_total": [("4", 4), ("5", 5), ("6", 6), (None, 1)],
    "shard_index": [("0", 0), ("0", 0), ("0", 0), (None, 0)],
    "web_telemetry_path": [("/flag", "/flag"), ("/env", "/env"), ("/file/deep", "/file/deep"), (None, "/metrics")],
    "web_max_requests": [("1", 1), ("0", 0), ("3", 3), (None, 40)],
    "web_config_file": [
        ("flag.yml", Path("flag.yml")),
        ("env.yml", Path("env.yml")),
        ("/file.yml", Path("/file.yml")),
        (None, None),
    ],
    "account_name": [("flag", "flag"), ("env", "env"), ("file", "file"), (None, None)],
    "log_level": [("debug", "debug"), ("warning", "warn"), ("error", "error"), (None, "info")],
    "log_format": [("json", "json"), ("logfmt", "logfmt"), ("json", "json"), (None, "logfmt")],
}


SWITCHES = ("web_systemd_socket", "web_disable_exporter_metrics", "emails_log", "emails_errors")


def flag_of(name):
    return "--web.config.file" if name == "web_config_file" else "--" + name.replace("_", ".", 1).replace("_", "-")


class TestPrecedence:
    @pytest.mark.parametrize("name", SETTINGS)
    def test_flag_then_environment_then_file_then_default(self, config, name):
        (flag, by_flag), (variable, by_variable), (key, by_file), (_, by_default) = SETTINGS[name]
        argv = [f"{flag_of(name)}={flag}"]
        environ = {**HOME, **TOKEN, f"COMMS_EXPORTER_{name.upper()}": variable}
        file = config(f"{flag_of(name)[2:]}: {key}\n")

        assert by_flag == getattr(load([*argv, file], environ), name)
        assert by_variable == getattr(load([file], environ), name)
        assert by_file == getattr(load([file], HOME | TOKEN), name)
        assert by_default == getattr(load([], HOME | TOKEN), name)

    def test_every_setting_is_tested(self):
        assert {*SETTINGS, *SWITCHES, "config_file", "config_check", "accounts", "emails_providers"} == set(
            type(load([], HOME | TOKEN)).model_fields
        )

    @pytest.mark.parametrize("name", SWITCHES)
    def test_a_switch_is_off_until_it_is_set(self, config, name):
        variable = {f"COMMS_EXPORTER_{name.upper()}": "true"}

        assert not getattr(load([], HOME | TOKEN), name)
        assert getattr(load([flag_of(name)], HOME | TOKEN), name)
        assert getattr(load([], HOME | TOKEN | variable), name)
        assert getattr(load([config(f"{flag_of(name)[2:]}: true\n")], HOME | TOKEN), name)

    def test_a_command_can_have_its_own_defaults(self, config):
        defaults = {"collect_interval": "5s", "state_path": ""}
        assert 5 == load([], HOME | TOKEN, defaults=defaults).collect_interval
        assert load([], HOME | TOKEN, defaults=defaults).state_path is None
        file = config("collect: {interval: 6s}\nstate.path: /file.db\n")
        assert 6 == load([file], HOME | TOKEN, defaults=defaults).collect_interval
        assert Path("/file.db") == load([file], HOME | TOKEN, defaults=defaults).state_path

    def test_only_the_given_environment_is_used(self, monkeypatch):
        monkeypatch.setenv("COMMS_EXPORTER_COLLECT_INTERVAL", "7s")
        monkeypatch.setenv("COLLECT_INTERVAL", "7s")
        assert 30 == load([], HOME | TOKEN).collect_interval

    def test_the_environment_can_name_the_config_file(self, config):
        config("collect.interval: 6s")
        assert 6 == load([], HOME | TOKEN | {"COMMS_EXPORTER_CONFIG_FILE": "config.yml"}).collect_interval

    def test_a_repeated_flag_overrides_except_for_listen_addresses(self):
        argv = [
            "--collect.interval=1s",
            "--collect.interval",
            "2s",
            "--web.listen-address=:1",
            "--web.listen-address=:2",
        ]
        settings = load(argv, HOME | TOKEN)
        assert 2 == settings.collect_interval
        assert [":1", ":2"] == [str(address) for address in settings.web_listen_address]

    def test_settings_are_immutable(self):
        settings = load([], HOME | TOKEN)
        with pytest.raises(ValidationError):
            settings.collect_interval = 1


class TestEmpty:
    @pytest.mark.parametrize("name", [name for name in SETTINGS if name != "state_path"])
    @pytest.mark.parametrize("empty", ["", " \n"])
    def test_an_empty_variable_counts_as_unset(self, name, empty):
        """Compose's ${X:-} leaves such variables behind."""
        settings = load([], {**HOME, **TOKEN, f"COMMS_EXPORTER_{name.upper()}": empty, "TWILIO_API_KEY": empty})
        assert SETTINGS[name][3][1] == getattr(settings, name)

    def test_an_empty_unknown_variable_is_ignored(self):
        assert load([], HOME | TOKEN | {"COMMS_EXPORTER_WHATEVER": ""})

    @pytest.mark.parametrize(("argv", "variables"), [(["--state.path="], {}), ([], {"COMMS_EXPORTER_STATE_PATH": ""})])
    def test_an_empty_state_path_means_no_state(self, argv, variables):
        assert load(argv, HOME | TOKEN | variables).state_path is None

    def test_an_empty_config_file_is_valid(self, config):
        assert load([config("# nothing yet\n")], HOME | TOKEN)

    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            ({"XDG_STATE_HOME": "/state"}, "/state/comms-exporter/state.db"),
            ({"XDG_STATE_HOME": ""}, "/home/me/.local/state/comms-exporter/state.db"),
            ({"XDG_STATE_HOME": "relative"}, "/home/me/.local/state/comms-exporter/state.db"),
        ],
    )
    def test_the_default_state_path_follows_xdg(self, environ, expected):
        assert Path(expected) == load([], HOME | TOKEN | environ).state_path


class TestFile:
    @pytest.mark.parametrize(
        "text",
        [
            "api.max-requests-per-second: 2",
            "api.max_requests_per_second: '2'",
            "api: {max-requests-per-second: 2}",
            "api:\n  max_requests_per_second: 2.0",
        ],
    )
    def test_keys_can_be_nested_or_dotted_with_hyphens_or_underscores(self, config, text):
        assert 2 == load([config(text)], HOME | TOKEN).api_max_requests_per_second

    def test_web_config_file_can_be_nested(self, config):
        assert Path("/w.yml") == load([config("web: {config: {file: /w.yml}}")], HOME | TOKEN).web_config_file

    def test_paths_are_relative_to_the_file(self, tmp_path):
        (tmp_path / "config.yml").write_text("state.path: state.db\nweb.config.file: web.yml\n")
        settings = load(["--config.file", f"{tmp_path}/config.yml"], HOME | TOKEN)
        assert (tmp_path / "state.db", tmp_path / "web.yml") == (settings.state_path, settings.web_config_file)

    def test_a_byte_order_mark_is_ignored(self, config):
        assert load([config("\ufeffcollect.interval: 6s")], HOME | TOKEN)


class TestKubernetes:
    @pytest.mark.parametrize("service", ["COMMS_EXPORTER", "COMMS_EXPORTER_STAGING"])
    def test_variables_injected_for_a_service_are_ignored(self, service):
        injected = {
            "SERVICE_HOST": "10.0.0.1",
            "SERVICE_PORT": "10067",
            "SERVICE_PORT_METRICS": "10067",
            "PORT": "tcp://10.0.0.1:10067",
            "PORT_10067_TCP": "tcp://10.0.0.1:10067",
            "PORT_10067_TCP_PROTO": "tcp",
            "PORT_10067_TCP_PORT": "10067",
            "PORT_10067_TCP_ADDR": "10.0.0.1",
        }
        assert load([], HOME | TOKEN | {f"{service}_{name}": value for name, value in injected.items()})


# What is set, and the one line that is said about it. Credentials are the environment's unless a case says otherwise.
BAD_FLAGS = {
    "--collect.interval=30": '--collect.interval: "30" has no unit; write 30s',
    "--collect.interval=1.5": '--collect.interval: "1.5" is not a duration; write one such as 30s, 5m or 1h30m',
    "--collect.interval=soon": '--collect.interval: "soon" is not a duration; write one such as 30s, 5m or 1h30m',
    "--collect.interval=": '--collect.interval: "" is not a duration; write one such as 30s, 5m or 1h30m',
    "--collect.interval=0": '--collect.interval: "0" is not a positive duration; write one such as 30s, 5m or 1h30m',
    "--collect.interval=300y": '--collect.interval: "300y" is too long; the longest duration is 292y',
    "--api.timeout=0ms": '--api.timeout: "0ms" is not a positive duration; write one such as 30s, 5m or 1h30m',
    "--collect.active-window=0s": '--collect.active-window: "0s" is not a positive duration; write one such as 30s, 5m or 1h30m',
    "--api.page-size=0": '--api.page-size: "0" is not a whole number from 1 to 1000',
    "--api.page-size=1001": '--api.page-size: "1001" is not a whole number from 1 to 1000',
    "--api.page-size=ten": '--api.page-size: "ten" is not a whole number from 1 to 1000',
    "--api.max-requests-per-second=0": '--api.max-requests-per-second: "0" is not a rate; write a number above 0, such as 5 or 0.5',
    "--api.max-requests-per-second=nan": '--api.max-requests-per-second: "nan" is not a rate; write a number above 0, such as 5 or 0.5',
    "--api.max-requests-per-second=1.2.3": '--api.max-requests-per-second: "1.2.3" is not a rate; write a number above 0, such as 5 or 0.5',
    "--collect.operations=all": '--collect.operations: "all" is unknown; write active, troubled or none',
    "--collect.max-operations=-1": '--collect.max-operations: "-1" is not a whole number from 0 to 1000000000',
    "--collect.max-tracked-operations=0": '--collect.max-tracked-operations: "0" is not a whole number from 1 to 1000000000',
    **{
        f"--record.max-size={size}": f'--record.max-size: "{size}" is not a size above 0; write one such as 500MB or 10GB'
        for size in ("0GB", "10", "1.5GB", "10gb", "1000000000GB")
    },
    "--collect.stats-reading=both": '--collect.stats-reading: "both" is unknown; write auto, cumulative or exclusive',
    "--log.level=loud": '--log.level: "loud" is unknown; write debug, info, warn or error',
    "--log.format=xml": '--log.format: "xml" is unknown; write logfmt or json',
    "--web.telemetry-path=metrics": '--web.telemetry-path: "metrics" is not a path for the metrics; write one such as /metrics',
    "--web.telemetry-path=/": '--web.telemetry-path: "/" is not a path for the metrics; write one such as /metrics',
    "--web.telemetry-path=/-/ready": '--web.telemetry-path: "/-/ready" is reserved for probes and reloads; write another path, such as /metrics',
    "--web.telemetry-path=/../x": '--web.telemetry-path: "/../x" contains . or .., which clients remove; write a path without them',
    "--web.listen-address=10067": '--web.listen-address: "10067" is not a listen address; write one such as :10067, host:10067 or [::1]:10067',
    "--web.listen-address=::1:10067": '--web.listen-address: "::1:10067" is not a listen address; write one such as :10067, host:10067 or [::1]:10067',
    "--web.listen-address=[host]:1": '--web.listen-address: "[host]:1" has no valid IPv6 address in its brackets; write [::1]:10067',
    "--web.listen-address=:65536": '--web.listen-address: ":65536" has no valid port; ports are 0 to 65535',
    "--api.base-url=comms.twilio.com": "--api.base-url: is not an http or https URL with a host; write one such as https://comms.twilio.com/v1",
    "--api.base-url=ftp://x": "--api.base-url: is not an http or https URL with a host; write one such as https://comms.twilio.com/v1",
    "--api.base-url=https://[x": "--api.base-url: is not a URL; write one such as https://comms.twilio.com/v1",
    "--api.base-url=https://x:port": "--api.base-url: is not a URL; write one such as https://comms.twilio.com/v1",
    "--api.base-url=https://me:c4n4ry5ecret@x": "--api.base-url: contains a user or a password; set credentials separately",
    "--api.base-url=https://x/?token=c4n4ry5ecret": "--api.base-url: contains a query or a fragment; remove the ? or # and what follows",
    "--api.base-url=https://x/ y": "--api.base-url: contains a space, a backslash or a control character; remove it",
    "--state.path=~/x.db": '--state.path: "~/x.db" starts with ~, which only a shell expands; write the full path',
    "--state.path=a\0b": '--state.path: "a\\u0000b" is not a path; remove the NUL character',
    "--account.name=a\nb": '--account.name: "a\\nb" contains control characters; remove them',
    "--collect.intervall=30s": "--collect.intervall: unknown flag; did you mean --collect.interval?",
    "--web.config-file=x": "--web.config-file: unknown flag; did you mean --web.config.file?",
    "--collect.int=30s": "--collect.int: unknown flag; did you mean --collect.interval?",
    "--zzz": "--zzz: unknown flag",
    "--twilio.auth-token=c4n4ry5ecret": "--twilio.auth-token: unknown flag",
    "c4n4ry5ecret": "unexpected argument on the command line; see --help",
    "-c4n4ry5ecret": "unexpected argument on the command line; see --help",
    "--config.check=yes": "--config.check: takes no value; see --help",
    "--log.level": "--log.level: needs a value; see --help",
    "--config.file=/nowhere/x.yml": "--config.file: cannot read /nowhere/x.yml: No such file or directory",
}

BAD_VARIABLES = {
    ("COMMS_EXPORTER_COLLECT_INTERVAL", "30"): 'COMMS_EXPORTER_COLLECT_INTERVAL: "30" has no unit; write 30s',
    (
        "COMMS_EXPORTER_COLECT_INTERVAL",
        "30s",
    ): "COMMS_EXPORTER_COLECT_INTERVAL: unknown variable; did you mean COMMS_EXPORTER_COLLECT_INTERVAL?",
    (
        "COMMS_EXPORTER_CONFIG_CHECK",
        "1",
    ): "COMMS_EXPORTER_CONFIG_CHECK: is not a variable; use --config.check",
    ("COMMS_EXPORTER_AUTH_TOKEN", "c4n4ry5ecret"): "COMMS_EXPORTER_AUTH_TOKEN: unknown variable",
    ("COMMS_EXPORTER_PORT", "10067"): "COMMS_EXPORTER_PORT: unknown variable",
    (
        "COMMS_EXPORTER_WEB_LISTEN_ADDRESS",
        ":1 ,x",
    ): 'COMMS_EXPORTER_WEB_LISTEN_ADDRESS: "x" is not a listen address; write one such as :10067, host:10067 or [::1]:10067',
    (
        "COMMS_EXPORTER_CONFIG_FILE",
        "/nowhere",
    ): "COMMS_EXPORTER_CONFIG_FILE: cannot read /nowhere: No such file or directory",
    (
        "TWILIO_API_KEY",
        "SK1",
    ): "TWILIO_AUTH_TOKEN: TWILIO_API_KEY is set as well; set either an auth token or an API key",
    (
        "TWILIO_API_SECRET",
        "c4n4ry5ecret",
    ): "TWILIO_AUTH_TOKEN: TWILIO_API_SECRET is set as well; set either an auth token or an API key",
    (
        "TWILIO_AUTH_TOKEN_FILE",
        "/run/token",
    ): "TWILIO_AUTH_TOKEN_FILE: TWILIO_AUTH_TOKEN is set as well; remove one of them",
    ("TWILIO_AUTH_TOKEN", "'c4n4ry5ecret'"): "TWILIO_AUTH_TOKEN: is wrapped in quotes; remove them",
    ("TWILIO_AUTH_TOKEN", '"c4n4ry5ecret"'): "TWILIO_AUTH_TOKEN: is wrapped in quotes; remove them",
    (
        "TWILIO_AUTH_TOKEN",
        "c4n4ry\n5ecret",
    ): "TWILIO_AUTH_TOKEN: contains characters that no credential has; copy it again",
    (
        "TWILIO_ACCOUNT_SID",
        "AC1:c4n4ry5ecret",
    ): "TWILIO_ACCOUNT_SID: contains a colon; write only the SID, without the secret",
}

BAD_FILES = {
    "collect.interval: 30": "config.yml: collect.interval: 30 has no unit; write 30s",
    "collect: {interval: [30s]}": "config.yml: collect.interval: a list is not a duration; write one such as 30s, 5m or 1h30m",
    "collect: {interval: }": "config.yml: collect.interval: nothing is not a duration; write one such as 30s, 5m or 1h30m",
    "collect: {intervall: 30s}": "config.yml: collect.intervall: unknown key; did you mean collect.interval?",
    "collect: 30s": "config.yml: collect: unknown key; did you mean collect.interval?",
    "collect_interval: 30s": "config.yml: collect_interval: unknown key; did you mean collect.interval?",
    "colour: red": "config.yml: colour: unknown key",
    "collect: {interval: 1s}\ncollect.interval: 2s": "config.yml: collect.interval: duplicate setting; remove one",
    "log.level: info\nlog.level: warn": "config.yml, line 2: not valid YAML; duplicate key",
    "api: {page_size: 1, page-size: 2}": "config.yml: api.page-size: duplicate setting; remove one",
    "config.file: other.yml": "config.yml: config.file: cannot be set in the file itself; use --config.file",
    "api.page-size: yes": "config.yml: api.page-size: true is not a whole number from 1 to 1000",
    "api.page-size: 1.5": "config.yml: api.page-size: 1.5 is not a whole number from 1 to 1000",
    "api.max-requests-per-second: .inf": "config.yml: api.max-requests-per-second: Infinity is not a rate; write a number above 0, such as 5 or 0.5",
    "web.listen-address: 10067": "config.yml: web.listen-address: 10067 is not a list of listen addresses; write addresses such as :10067, host:10067 or [::1]:10067",
    "web.listen-address: []": "config.yml: web.listen-address: the list is empty; write addresses such as :10067, host:10067 or [::1]:10067",
    "account.name: 7": "config.yml: account.name: 7 is not a string; put it in quotes",
    "account.name: 2026-01-01": "config.yml: account.name: a date is not a string; put it in quotes",
    "api.base-url: {a: c4n4ry5ecret}": "config.yml: api.base-url: is not a URL; write one such as https://comms.twilio.com/v1",
    "- a": "config.yml: is not a mapping; write settings as in `collect.interval: 30s`",
    "c4n4ry5ecret": "config.yml: is not a mapping; write settings as in `collect.interval: 30s`",
    "a: [c4n4ry5ecret": "config.yml, line 1: not valid YAML; syntax error",
    "a: b\n\tc: c4n4ry5ecret": "config.yml, line 2: not valid YAML; a tab is used for indentation",
    "a: *c4n4ry5ecret": "config.yml, line 1: not valid YAML; syntax error",
    "a: !c4n4ry5ecret x": "config.yml, line 1: not valid YAML; syntax error",
    "a: b: c4n4ry5ecret": "config.yml, line 1: not valid YAML; mapping values are not allowed here",
    "a: !!int c4n4ry5ecret": "config.yml: not valid YAML; a value does not match its tag",
    "a: !!timestamp c4n4ry5ecret": "config.yml: not valid YAML; a value does not match its tag",
    "a: \x07c4n4ry5ecret": "config.yml: not valid YAML; it contains a character that YAML does not allow",
    "[" * 9999: "config.yml: not valid YAML; a value does not match its tag",
}  # fmt: skip

# The same for accounts in a folder: the files in it, and the error. AC1 stands for complete credentials.
AC1 = "{account_sid: AC1, auth_token: c4n4ry5ecret}"
BAD_FOLDERS = [
    ({}, "config.yml: accounts_dir: there is no file in it whose name ends in .yml or .yaml; add one for each account"),
    ({"shop.yml": ""}, "accounts.d/shop.yml: is not an account; it needs account_sid and auth_token, or api_key and api_secret"),
    ({"shop.yml": "c4n4ry5ecret"}, "accounts.d/shop.yml: is not an account; it needs account_sid and auth_token, or api_key and api_secret"),
    ({"shop.yml": "name: shop"}, "accounts.d/shop.yml: has no credentials; set account_sid and auth_token, or api_key and api_secret"),
    ({"shop.yml": "account_sid: AC1"}, "accounts.d/shop.yml: auth_token: is missing; account_sid needs it"),
    ({"shop.yml": "{account_sid: AC1, auth_token: }"}, "accounts.d/shop.yml: auth_token: is not a string; put it in quotes"),
    ({"shop.yml": "{account_sid: AC1, auth_tokn: c4n4ry5ecret}"}, "accounts.d/shop.yml: auth_tokn: unknown key; did you mean auth_token?"),
    ({"shop.yml": "account_sid: AC1\nauth_token: 'c4n4ry5ecret"}, "accounts.d/shop.yml, line 2: not valid YAML; found unexpected end of stream"),
    ({"shop.yml": "{account_sid: AC1, auth_token_file: nowhere}"}, "accounts.d/shop.yml: auth_token_file: cannot read accounts.d/nowhere: No such file or directory"),
    ({"shop.yml": b"\xff"}, "cannot read accounts.d/shop.yml: it is not UTF-8 text"),
    ({"a.yml": AC1, "b.yml": "{name: a, api_key: SK1, api_secret: s}"}, 'accounts.d/b.yml: name: "a" is already the name of accounts.d/a.yml; account names must be unique'),
    ({"a.yml": AC1, "a.yaml": AC1}, 'accounts.d/a.yml: name: "a" is already the name of accounts.d/a.yaml; account names must be unique'),
]  # fmt: skip
# The same for accounts in the file, with nothing in the environment.
BAD_ACCOUNTS = {
    "accounts: []": "config.yml: accounts: is not a list of accounts; each account needs account_sid and auth_token, or api_key and api_secret",
    "accounts: {a: c4n4ry5ecret}": "config.yml: accounts: is not a list of accounts; each account needs account_sid and auth_token, or api_key and api_secret",
    "accounts: [c4n4ry5ecret]": "config.yml: accounts[0]: is not an account; it needs account_sid and auth_token, or api_key and api_secret",
    "accounts: [{name: a}]": "config.yml: accounts[0]: has no credentials; set account_sid and auth_token, or api_key and api_secret",
    "accounts: [{account_sid: AC1}]": "config.yml: accounts[0].auth_token: is missing; accounts[0].account_sid needs it",
    "accounts: [{auth_token: c4n4ry5ecret}]": "config.yml: accounts[0].account_sid: is missing; accounts[0].auth_token needs it",
    "accounts: [{api_key: SK1}]": "config.yml: accounts[0].api_secret: is missing; accounts[0].api_key needs it",
    "accounts: [{api_secret: c4n4ry5ecret}]": "config.yml: accounts[0].api_key: is missing; accounts[0].api_secret needs it",
    "accounts: [{account_sid: AC1, auth_token: 7654321}]": "config.yml: accounts[0].auth_token: is not a string; put it in quotes",
    "accounts: [{account_sid: AC1, auth_token: [c4n4ry5ecret]}]": "config.yml: accounts[0].auth_token: is not a string; put it in quotes",
    "accounts: [{account_sid: AC1, auth_token: {c4n4ry5ecret: 1}}]": "config.yml: accounts[0].auth_token: is not a string; put it in quotes",
    "accounts: [{account_sid: AC1, auth_token: }]": "config.yml: accounts[0].auth_token: is not a string; put it in quotes",
    "accounts: [{account_sid: AC1, auth_token: ''}]": "config.yml: accounts[0].auth_token: is empty; set the credential",
    "accounts: [{account_sid: AC1, auth_tokn: c4n4ry5ecret}]": "config.yml: accounts[0].auth_tokn: unknown key; did you mean auth_token?",
    "accounts: [{account_sid: AC1, auth_token:c4n4ry5ecret}]": "config.yml: accounts[0]: unknown key; valid keys are name, account_sid, auth_token, api_key, api_secret, account_sid_file, auth_token_file, api_key_file, api_secret_file, base_url",
    "accounts: [{account_sid: AC1, auth_token: t, auth-token: c4n4ry5ecret}]": "config.yml: accounts[0].auth-token: duplicate setting; remove one",
    "accounts: [{account_sid: AC1, auth_token: t, api_key: SK1}]": "config.yml: accounts[0].auth_token: accounts[0].api_key is set as well; set either an auth token or an API key",
    "accounts: [{account_sid: AC1, auth_token: t, auth_token_file: f}]": "config.yml: accounts[0].auth_token_file: accounts[0].auth_token is set as well; remove one of them",
    "accounts: [{account_sid: AC1, auth_token_file: nowhere}]": "config.yml: accounts[0].auth_token_file: cannot read nowhere: No such file or directory",
    "accounts: [{account_sid: AC1, auth_token_file: 7}]": "config.yml: accounts[0].auth_token_file: is not a string with a path; put it in quotes",
    "accounts: [{account_sid: AC1, auth_token_file: c4n4ry5ecretc4n4ry5ecret}]": "config.yml: accounts[0].auth_token_file: looks like the credential itself; write the path of a file",
    "accounts: [{name: 7, account_sid: AC1, auth_token: t}]": "config.yml: accounts[0].name: 7 is not a string; put it in quotes",
    "accounts: [{account_sid: AC1, auth_token: t, base_url: x}]": "config.yml: accounts[0].base_url: is not an http or https URL with a host; write one such as https://comms.twilio.com/v1",
    "accounts: [{name: a, api_key: SK1, api_secret: s}, {name: a, api_key: SK2, api_secret: s}]": 'config.yml: accounts[1].name: "a" is already the name of accounts[0]; account names must be unique',
    "accounts: [{api_key: SK1, api_secret: s}, {api_key: SK2, api_secret: s}]": 'config.yml: accounts[1].name: "default" is already the name of accounts[0]; account names must be unique',
}  # fmt: skip


class TestErrors:
    @pytest.mark.parametrize(("flag", "expected"), BAD_FLAGS.items(), ids=[flag[:40] for flag in BAD_FLAGS])
    def test_in_flags(self, flag, expected):
        assert expected == settings_error([flag], TOKEN)

    @pytest.mark.parametrize(("variable", "expected"), BAD_VARIABLES.items(), ids=[name for name, _ in BAD_VARIABLES])
    def test_in_variables(self, variable, expected):
        assert expected == settings_error([], TOKEN | dict([variable]))

    @pytest.mark.parametrize(("text", "expected"), BAD_FILES.items(), ids=[text[:40] for text in BAD_FILES])
    def test_in_the_config_file(self, config, text, expected):
        assert expected == settings_error([config(text)], TOKEN)

    @pytest.mark.parametrize(("text", "expected"), BAD_ACCOUNTS.items(), ids=[text[11:50] for text in BAD_ACCOUNTS])
    def test_in_accounts(self, config, text, expected):
        assert expected == settings_error([config(text)], {})

    @pytest.mark.parametrize(("files", "expected"), BAD_FOLDERS, ids=[each[1][:60] for each in BAD_FOLDERS])
    def test_in_a_folder_of_accounts(self, config, folder, files, expected):
        folder(files)
        assert expected == settings_error([config("accounts_dir: accounts.d")], {})

    @pytest.mark.parametrize(
        ("text", "expected"),
        {
            "accounts_dir: nowhere": "config.yml: accounts_dir: cannot read nowhere: No such file or directory",
            "accounts_dir: config.yml": "config.yml: accounts_dir: cannot read config.yml: Not a directory",
            "accounts_dir: ''": "config.yml: accounts_dir: is empty; write the path of a folder",
            "accounts_dir: 7": "config.yml: accounts_dir: 7 is not a string; put it in quotes",
            "{accounts_dir: a, accounts-dir: b}": "config.yml: accounts-dir: duplicate setting; remove one",
            "account_dir: a": "config.yml: account_dir: unknown key; did you mean accounts_dir?",
        }.items(),
    )
    def test_in_the_path_of_a_folder_of_accounts(self, config, text, expected):
        assert expected == settings_error([config(text)], {}).splitlines()[0]

    def test_an_account_in_the_folder_and_in_the_list(self, config, folder):
        folder({"shop.yml": AC1})
        file = config(f"accounts_dir: accounts.d\naccounts: [{{name: shop, {AC1[1:]}]")
        assert (
            'accounts.d/shop.yml: name: "shop" is already the name of config.yml: accounts[0]; account names must be unique'
        ) == settings_error([file], {})

    def test_credentials_in_environment_and_folder(self, config, folder):
        folder({"shop.yml": AC1})
        assert (
            "TWILIO_ACCOUNT_SID: credentials are set both here and under accounts_dir in config.yml; remove one of them"
        ) == settings_error([config("accounts_dir: accounts.d")], TOKEN)

    def test_no_credentials(self):
        assert NO_CREDENTIALS == settings_error([], {})

    @pytest.mark.parametrize("name", [*TOKEN, *KEY])
    def test_half_of_the_credentials(self, name):
        pair = TOKEN if name in TOKEN else KEY
        (other,) = pair.keys() - {name}
        assert f"{other}: is missing; {name} needs it" == settings_error([], {name: CANARY})

    def test_all_are_reported_in_one_line_each(self, config):
        file = config("api.timeout: 30\ncolour: red")
        environ = {"COMMS_EXPORTER_API_PAGE_SIZE": "0", "COMMS_EXPORTER_X": "1"}
        assert [
            "COMMS_EXPORTER_X: unknown variable",
            "config.yml: colour: unknown key",
            NO_CREDENTIALS,
            "config.yml: api.timeout: 30 has no unit; write 30s",
            'COMMS_EXPORTER_API_PAGE_SIZE: "0" is not a whole number from 1 to 1000',
            '--collect.interval: "1" has no unit; write 1s',
        ] == settings_error([file, "--collect.interval=1"], environ).splitlines()

    def test_a_newline_in_a_name_does_not_split_the_line(self):
        assert 1 == len(settings_error([], TOKEN | {"COMMS_EXPORTER_\nX\u2028": "1"}).splitlines())

    def test_long_values_are_shortened(self):
        expected = f'--log.level: "{"x" * 57}..." is unknown; write debug, info, warn or error'
        assert expected == settings_error(["--log.level=" + "x" * 999], TOKEN)

    def test_an_unknown_default_is_an_error(self):
        assert "--colour.x: Extra inputs are not permitted" == settings_error([], TOKEN, defaults={"colour_x": "1"})

    def test_the_parser_raises_settings_errors(self):
        with pytest.raises(SettingsError, match=r"^unknown command$"):
            build_parser().error("unknown command")


class TestDurations:
    @patient
    @given(st.lists(st.none() | st.integers(0, 99), min_size=7, max_size=7).filter(any))
    def test_units_add_up(self, counts):
        units = {"y": 31536000, "w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
        text = "".join(f"{count}{unit}" for count, unit in zip(counts, units, strict=True) if count is not None)
        expected = sum((count or 0) * seconds for count, seconds in zip(counts, units.values(), strict=True))
        assert expected == pytest.approx(parse_duration(text))

    @patient
    @given(st.text("0123456789ywdhms. -+", max_size=12) | st.text())
    def test_the_grammar_is_that_of_prometheus(self, text):
        grammar = re.compile(r"(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?", re.ASCII)
        try:
            parse_duration(text)
        except ValueError as error:
            assert not (text and grammar.fullmatch(text)) or "too long" in str(error)  # noqa: PT017
        else:
            assert text == "0" or (text and grammar.fullmatch(text))

    @pytest.mark.parametrize(
        ("text", "expected"), [("0", 0), ("292y", 292 * 31536000), ("100ms", 0.1), ("1h30m", 5400)]
    )
    def test_valid(self, text, expected):
        assert expected == parse_duration(text)

    @pytest.mark.parametrize(
        "text", ["1m1h", "1s1s", "1S", "-1s", "1 s", "s", "1.5h", "٣s", "9" * 5000 + "s", "9" * 5000]
    )
    def test_invalid(self, text):
        with pytest.raises(ValueError, match=r"write|longest"):
            parse_duration(text)


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "host", "port"),
        [
            (":10067", None, 10067),
            (":0", None, 0),
            ("127.0.0.1:65535", "127.0.0.1", 65535),
            ("my-host.example:80", "my-host.example", 80),
            ("[::]:80", "::", 80),
            ("[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ],
    )
    def test_listen_addresses_are_parsed(self, text, host, port):
        address = parse_listen_address(text)
        assert (host, port, text) == (address.host, address.port, str(address))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("https://comms.twilio.com/v1//", "https://comms.twilio.com/v1"),
            ("HTTP://localhost:8080", "http://localhost:8080"),
            ("http://[::1]:8080/a/b/", "http://[::1]:8080/a/b"),
        ],
    )
    def test_trailing_slashes_of_the_base_url_are_removed(self, text, expected):
        assert expected == parse_base_url(text)

    @pytest.mark.parametrize("host", ["a..b", ".a", f"{'a' * 64}.b", "ex\xadample", "\u2024.b", "\ud800"])
    def test_a_base_url_whose_host_cannot_be_resolved_is_rejected(self, host):
        with pytest.raises(ValueError, match=r"^is not a URL; write one such as https://comms\.twilio\.com/v1$"):
            parse_base_url(f"https://{host}/v1")


class TestAccounts:
    @pytest.mark.parametrize(
        ("environ", "name", "user", "secret"),
        [
            (TOKEN, "AC1", "AC1", "token"),
            (KEY, "default", "SK1", "secret"),
            (KEY | {"TWILIO_ACCOUNT_SID": "AC2"}, "AC2", "SK1", "secret"),
            (TOKEN | {"COMMS_EXPORTER_ACCOUNT_NAME": "main"}, "main", "AC1", "token"),
            ({name: f" {value}\n" for name, value in TOKEN.items()}, "AC1", "AC1", "token"),
        ],
    )
    def test_from_the_environment(self, environ, name, user, secret):
        (account,) = load([], HOME | environ).accounts
        assert (name, user, secret) == (account.name, account.user, account.secret.get_secret_value())
        assert (user, secret) == account.credentials()
        assert "https://comms.twilio.com/v1" == account.base_url

    def test_from_the_file(self, config):
        Path("secret").write_text("s3\n")
        file = config("""
            api.base-url: https://elsewhere
            accounts:
              - {account_sid: AC1, auth_token: s1}
              - {name: two, api-key: SK2, api_secret: s2, base_url: http://localhost:1/}
              - {name: three, account_sid: AC3, api_key: SK3, api_secret_file: secret}
        """)
        accounts = load([file], HOME).accounts
        assert ["AC1", "two", "three"] == [account.name for account in accounts]
        assert [("AC1", "s1"), ("SK2", "s2"), ("SK3", "s3")] == [account.credentials() for account in accounts]
        assert ["https://elsewhere", "http://localhost:1", "https://elsewhere"] == [a.base_url for a in accounts]

    def test_credential_files_are_relative_to_the_config_file(self, tmp_path):
        (tmp_path / "token").write_text("t")
        (tmp_path / "config.yml").write_text("accounts: [{account_sid: AC1, auth_token_file: token}]")
        (account,) = load([f"--config.file={tmp_path}/config.yml"], HOME).accounts
        assert tmp_path / "token" == account.secret_file

    def test_changed_credential_files_are_read_again(self, tmp_path):
        (tmp_path / "user").write_text("AC1\n")
        (tmp_path / "token").write_text("old\n")
        environ = {"TWILIO_ACCOUNT_SID_FILE": f"{tmp_path}/user", "TWILIO_AUTH_TOKEN_FILE": f"{tmp_path}/token"}
        (account,) = load([], HOME | environ).accounts
        assert ("AC1", "old") == account.credentials()
        (tmp_path / "token").write_text("new\n")
        assert ("AC1", "new") == account.credentials()
        (tmp_path / "token").unlink()
        with pytest.raises(SettingsError) as raised:
            account.credentials()
        assert f"account AC1: cannot read {tmp_path}/token: No such file or directory" == str(raised.value)

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b" \n", "{} is empty; set the credential"),
            (b"'c4n4ry5ecret'", "{} is wrapped in quotes; remove them"),
            (b"c4n4ry\x005ecret", "{} contains characters that no credential has; copy it again"),
            (b"c4n4ry5ecret\xff", "cannot read {}: it is not UTF-8 text"),
        ],
    )
    def test_an_invalid_credential_file(self, tmp_path, content, expected):
        path = tmp_path / "token"
        path.write_bytes(content)
        environ = {"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN_FILE": str(path)}
        assert f"TWILIO_AUTH_TOKEN_FILE: {expected.format(path)}" == settings_error([], environ)

    def test_a_credential_file_with_a_byte_order_mark_and_crlf(self, tmp_path):
        (tmp_path / "token").write_bytes(b"\xef\xbb\xbftoken\r\n")
        environ = {"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN_FILE": f"{tmp_path}/token"}
        assert ("AC1", "token") == load([], HOME | environ).accounts[0].credentials()

    def test_a_credential_file_that_is_a_directory(self, tmp_path):
        environ = {"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN_FILE": str(tmp_path)}
        assert f"TWILIO_AUTH_TOKEN_FILE: cannot read {tmp_path}: Is a directory" == settings_error([], environ)

    def test_accounts_in_a_folder(self, config, folder):
        """One file for each, called like the file; beside those in the list; other files are ignored."""
        folder(
            {
                "shop.yml": "{account_sid: AC1, auth_token_file: shop.token}",
                "shop.token": "s1",
                "blog.yaml": "{name: news, api_key: SK2, api_secret: s2, base_url: http://localhost:1}",
                ".hidden.yml": "nonsense",
                "shop.yml~": "nonsense",
            }
        )
        text = "accounts_dir: accounts.d\naccounts: [{account_sid: AC3, auth_token: s3}]"
        accounts = load([config(text)], HOME).accounts

        assert [("AC3", ("AC3", "s3")), ("news", ("SK2", "s2")), ("shop", ("AC1", "s1"))] == [
            (account.name, account.credentials()) for account in accounts
        ]
        assert "http://localhost:1" == accounts[1].base_url

    def test_from_both_environment_and_file_are_rejected(self, config):
        file = config("accounts: [{account_sid: AC1, auth_token: t}]")
        assert (
            "TWILIO_ACCOUNT_SID: credentials are set both here and under accounts in config.yml; remove one of them"
        ) == settings_error([file], TOKEN)

    @pytest.mark.parametrize(
        ("argv", "environ", "name"),
        [
            (["--account.name=x"], {}, "--account.name"),
            ([], {"COMMS_EXPORTER_ACCOUNT_NAME": "x"}, "COMMS_EXPORTER_ACCOUNT_NAME"),
        ],
    )
    def test_account_name_does_not_apply_to_accounts_in_the_file(self, config, argv, environ, name):
        file = config("accounts: [{account_sid: AC1, auth_token: t}]")
        assert (
            f"{name}: does not apply to the accounts in config.yml; remove it, and set their names there"
        ) == settings_error([file, *argv], environ)

    def test_given_by_a_command_replace_all_others(self):
        """The demo needs no credentials and ignores those in the environment."""
        mine = Account(name="demo", user="u", secret=SecretStr("s"), base_url="http://localhost:1")
        assert (mine,) == load([], HOME | {"TWILIO_AUTH_TOKEN": "'broken'"}, accounts=[mine]).accounts


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PLACES = [*TOKEN, *KEY]


class TestSecrets:
    @patient
    @given(st.sampled_from(PLACES), TEXT, TEXT)
    def test_in_a_variable_are_never_shown(self, place, before, after):
        secret = f"{before}{CANARY}{after}"
        pair = TOKEN if place in TOKEN else KEY
        self.assert_hidden(lambda: load([], {**HOME, **pair, place: secret, "COMMS_EXPORTER_ACCOUNT_NAME": "a"}))

    @pytest.mark.parametrize(
        "key", ["auth_token", "auth_token_file", "api_secret", "api_key", "account_sid", "base_url"]
    )
    @pytest.mark.parametrize(
        "shape",
        [
            "{}",
            "'{}",
            "[{}]",
            "{{{}: 1}}",
            "!{} x",
            "!!int {}",
            "*{}",
            "&{} *x",
            "|{}",
            ":{}",
            "{}: x",
            "\t{}",
            '"\'{}"',
        ],
    )
    def test_in_a_file_are_never_shown(self, config, key, shape):
        for around in ("accounts:\n- name: a\n  {}: {}\n", "accounts: [{{name: a, {}:{}}}]\n", "{}: {}\n", "{}:{}\n"):
            for secret in (CANARY * 2, CANARY * 50):
                file = config(around.format(key, shape.format(secret)))
                self.assert_hidden(lambda file=file: load([file], HOME))

    @patient
    @given(st.sampled_from(["--twilio.auth-token", "--api-secret", "-p", "--config.check", "--help"]), st.booleans())
    def test_as_a_flag_are_never_shown(self, flag, glued):
        self.assert_hidden(lambda: load([f"{flag}={CANARY}"] if glued or flag == "--help" else [flag, CANARY], HOME))

    def assert_hidden(self, attempt):
        try:
            settings = attempt()
        except SettingsError as error:
            seen = [str(error), repr(error), *traceback.format_exception(error, chain=True)]
            seen += [repr(error.__context__), repr(error.__cause__)]
        else:
            seen = [repr(settings), str(settings), *(f"{account} {account!r}" for account in settings.accounts)]
            seen += [str(settings.model_dump(exclude={"accounts"}))]
        assert CANARY not in "".join(seen)

    def test_are_not_in_the_repr_of_an_account(self):
        account = Account(name="a", user=CANARY, secret=SecretStr(CANARY))
        assert CANARY not in repr(dataclasses.replace(account, name="b"))


def helped(capsys, *argv, **kwargs):
    with pytest.raises(SystemExit) as raised:
        load(argv, {}, **kwargs)
    assert 0 == raised.value.code
    return " ".join(capsys.readouterr().out.split())


class TestHelp:
    def test_shows_every_setting_with_default_and_variable(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "400")
        text = helped(capsys, "--help")
        for name in [*SETTINGS, "config_file"]:
            assert flag_of(name) in text
            assert f"Environment: COMMS_EXPORTER_{name.upper()}." in text
        assert "Interval between polls of an account. Default: 30s. Environment:" in text
        assert "--config.check" in text
        assert "TWILIO_AUTH_TOKEN" in text

    def test_shows_the_defaults_of_the_command(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "400")
        assert "Interval between polls of an account. Default: 5s." in helped(
            capsys, "--help", defaults={"collect_interval": "5s"}
        )

    def test_shows_no_flag_for_a_secret(self):
        flags = " ".join(option for action in build_parser()._actions for option in action.option_strings)
        assert not re.search("token|secret|key|password", flags)

    def test_version(self, capsys):
        expected = rf"comms-exporter, version {re.escape(__version__)} \(python 3\.\d+\.\d+\S*\)"
        assert re.fullmatch(expected, helped(capsys, "--version"))

    def test_config_check_is_only_parsed(self):
        assert load(["--config.check"], HOME | TOKEN).config_check
        assert not load([], HOME | TOKEN).config_check


class TestEmailProviders:
    def test_are_read_from_the_config_file(self, config):
        file = config(
            "emails: {collect: lost, providers: {acme: [Acme.example, mail.acme.net], gmail: [corp.example]}}\n"
        )

        expected = (("acme", ("acme.example", "mail.acme.net")), ("gmail", ("corp.example",)))
        settings = load([file], HOME | TOKEN)
        assert expected == settings.emails_providers
        text = effective_settings_text(settings, settings)
        assert "emails.providers:\n  acme: acme.example, mail.acme.net\n  gmail: corp.example\n" in text

    @pytest.mark.parametrize(
        ("providers", "problem"),
        [
            ("[acme]", "a list is not a mapping; write a name and its domains, as in `acme: [acme.example]`"),
            (
                "{acme: acme.example}",
                '"acme.example" is not a list of domains of "acme"; write one such as [acme.example]',
            ),
            ("{acme: []}", 'a list is not a list of domains of "acme"; write one such as [acme.example]'),
            ("{acme: [localhost]}", '"localhost" is not a domain; write one such as acme.example'),
            ("{acme: [1]}", "1 is not a domain; write one such as acme.example"),
            ("{other: [a.b]}", '"other" is not a provider name; write up to 64 letters and digits, but not other'),
            ("{a: [x.y], b: [x.y]}", "x.y belongs to both a and b; remove it from one of them"),
        ],
    )
    def test_wrong_ones_are_refused(self, config, providers, problem):
        file = config(f"emails.providers: {providers}\n")

        assert f"config.yml: emails.providers: {problem}" == settings_error([file], TOKEN)

    def test_have_no_flag_and_no_variable(self):
        variable = "COMMS_EXPORTER_EMAILS_PROVIDERS"

        assert "--emails.providers: unknown flag" in settings_error(["--emails.providers=x"], TOKEN)
        assert f"{variable}: unknown variable" in settings_error([], TOKEN | {variable: "x"})


class TestTagKeys:
    def test_at_most_ten(self):
        assert "--emails.tags: 11 tag keys are too many; the limit is 10" == settings_error(
            [f"--emails.tags={','.join(map(str, range(11)))}"], TOKEN
        )

    def test_are_printable(self):
        assert '--emails.tags: "a\\u0007" is not a tag key; write up to 128 printable characters' == settings_error(
            ["--emails.tags=a\a"], TOKEN
        )


class TestEffectiveSettings:
    def test_shows_the_settings_in_effect(self):
        """Settings that need a restart have their values from the start, all others those of the last reload."""
        before = load(["--web.telemetry-path=/old", "--collect.interval=30s"], {**HOME, **TOKEN})
        now = load(["--web.telemetry-path=/new", "--collect.interval=1m"], {**HOME, **TOKEN})

        text = effective_settings_text(before, now)

        assert "web.telemetry-path: /old\n" in text
        assert "collect.interval: 60s\n" in text
        assert text.endswith(
            "accounts:\n  - name: AC1\n    base-url: https://comms.twilio.com/v1\n    user: given\n    secret: given\n"
        )

    def test_shows_no_secret_and_no_user(self):
        settings = load([], {**HOME, "TWILIO_API_KEY": "SKcanary", "TWILIO_API_SECRET": CANARY})

        assert not {"SKcanary", CANARY} & set(effective_settings_text(settings, settings).split())


class TestDescribe:
    def test_describes_every_setting(self):
        described = {each.name: each for each in describe()}

        assert Settings.model_fields.keys() - {"accounts", "emails_providers"} == described.keys()
        assert ("--web.config.file", "COMMS_EXPORTER_WEB_CONFIG_FILE", "web.config.file", True) == (
            described["web_config_file"].flag,
            described["web_config_file"].variable,
            described["web_config_file"].key,
            described["web_config_file"].restart,
        )
        assert "a whole number from 1 to 1000" == described["api_page_size"].values


class TestDatabase:
    URL = "postgresql://exporter:canary%2Fpassword@db.example:5432,[::1]:5433/twilio?sslmode=require"

    def test_the_url_may_be_in_a_file(self, tmp_path):
        (tmp_path / "url").write_text(f"{self.URL}\n")

        assert (
            self.URL == load([], HOME | TOKEN | {"COMMS_EXPORTER_STATE_URL_FILE": f"{tmp_path}/url"}).state_url.secret
        )

    def test_its_passwords_are_never_shown(self):
        settings = load([f"--state.url={self.URL}&sslpassword=canary2"], HOME | TOKEN)

        shown = effective_settings_text(settings, settings) + repr(settings) + str(settings.state_url)

        assert "canary" not in shown
        assert "state.url: postgresql://exporter@db.example:5432,[::1]:5433/twilio?sslmode=require" in shown
        assert ["canary/password", "canary2"] == settings.state_url.passwords

    def test_there_is_no_state_file_besides(self):
        assert load([f"--state.url={self.URL}"], HOME | TOKEN).state_path is None

    @pytest.mark.parametrize(
        "url",
        [
            "mysql://canary@host/db",
            "canary",
            "postgresql://user:canary@pass@host/db",
            "postgresql://user:canary/pass@host/db",
            "postgresql://user:can ary@host/db",
        ],
    )
    def test_a_url_that_is_wrong_is_refused_without_showing_it(self, url):
        problem = settings_error([f"--state.url={url}"], TOKEN)

        assert "--state.url: is not the URL of a database" in problem
        assert "canary" not in problem

    @pytest.mark.parametrize(
        ("argv", "environ", "problem"),
        [
            (["--state.path=x.db"], {}, "--state.path: cannot be used with --state.url; remove one"),
            ([], {"COMMS_EXPORTER_STATE_PATH": "x.db"}, "COMMS_EXPORTER_STATE_PATH: cannot be used with --state.url"),
            (["--shard.total=2"], {}, "--shard.total: cannot be used with --state.url, which shares the accounts"),
            (["--state.schema=Schema"], {}, '--state.schema: "Schema" is not the name of a schema'),
            (["--state.failover-timeout=1s"], {}, '--state.failover-timeout: "1s" is not a duration from 5s to 1h'),
            ([], {"COMMS_EXPORTER_STATE_URL_FILE": "/nowhere"}, "COMMS_EXPORTER_STATE_URL_FILE: cannot read /nowhere"),
        ],
    )
    def test_what_cannot_be_combined_is_said(self, argv, environ, problem):
        assert problem in settings_error([f"--state.url={self.URL}", *argv], TOKEN | environ)

    def test_one_url_is_enough(self, tmp_path):
        (tmp_path / "url").write_text(self.URL)
        both = {"COMMS_EXPORTER_STATE_URL": self.URL, "COMMS_EXPORTER_STATE_URL_FILE": f"{tmp_path}/url"}

        assert "COMMS_EXPORTER_STATE_URL_FILE: COMMS_EXPORTER_STATE_URL is set, too" in settings_error([], TOKEN | both)
