"""Settings: what can be set, where it comes from, and what is wrong with it."""

from comms_exporter.config.accounts import ACCOUNT_KEYS, PARTS, Account
from comms_exporter.config.describe import SettingDescription, areas, describe, effective_settings_text
from comms_exporter.config.settings import Settings, flag_of, needs_restart
from comms_exporter.config.sources import build_parser, load
from comms_exporter.config.values import (
    DatabaseUrl,
    ListenAddress,
    SettingsError,
    parse_base_url,
    parse_duration,
    parse_listen_address,
)

__all__ = [
    "ACCOUNT_KEYS",
    "PARTS",
    "Account",
    "DatabaseUrl",
    "ListenAddress",
    "SettingDescription",
    "Settings",
    "SettingsError",
    "areas",
    "build_parser",
    "describe",
    "effective_settings_text",
    "flag_of",
    "load",
    "needs_restart",
    "parse_base_url",
    "parse_duration",
    "parse_listen_address",
]
