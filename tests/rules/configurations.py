"""Configurations of the rules for tests."""

from pathlib import Path

import yaml

# A file that changes everything that can be changed.
CHANGED = Path(__file__).with_name("changed.yml")
CONFIGURATIONS = {"default": {}, "changed": yaml.safe_load(CHANGED.read_text(encoding="utf-8"))}
# What is written, and what is said about it
INVALID = [
    ("7", "is not a mapping; write settings as in `job: comms-exporter`"),
    ("treshold: {}", "treshold: unknown key; did you mean thresholds?; valid keys are job,"),
    ("1: {}", "1: is not a name; put it in quotes"),
    ("job: 'a\"b'", 'job: "a\\"b" is not a job; write it without quotes, braces and backslashes'),
    ("job: 7", "job: 7 is not a job;"),
    ("runbooks: docs", 'runbooks: "docs" is not an http or https URL;'),
    ("dashboards: 'https://g/{{x}}'", 'dashboards: "https://g/{{x}}" is not an http or https URL;'),
    ("objective: 95", "objective: 95 is not a share; write a number above 0 and below 1, such as 0.95"),
    ("objective: 1", "objective: 1 is not a share;"),
    ("thresholds: 7", "thresholds: 7 is not a mapping"),
    (
        "thresholds: {'comms_emails_failed:ratio_critcal': 0.1}",
        "thresholds.comms_emails_failed:ratio_critcal: unknown threshold; did you mean comms_emails_failed:ratio_critical?",
    ),
    (
        "thresholds: {'threshold:comms_up:ratio_seen': 0.5}",
        "thresholds.threshold:comms_up:ratio_seen: unknown threshold; write it as comms_up:ratio_seen",
    ),
    (
        "thresholds: {'comms_emails_lost:ratio_budget': 0.1}",
        "thresholds.comms_emails_lost:ratio_budget: follows from the delivery objective; set objective",
    ),
    ("thresholds: {'comms_rules:version': 3}", "thresholds.comms_rules:version: unknown threshold"),
    ("thresholds: {'comms_up:ratio_seen': 5%}", 'thresholds.comms_up:ratio_seen: "5%" is not a share;'),
    ("thresholds: {'comms_up:ratio_seen': yes}", "thresholds.comms_up:ratio_seen: true is not a share;"),
    ("thresholds: {'comms_up:ratio_seen': .nan}", "thresholds.comms_up:ratio_seen: NaN is not a share;"),
    ("thresholds: {'comms_up:ratio_seen': 0}", "thresholds.comms_up:ratio_seen: 0 is not a share;"),
    ("thresholds: {'comms_emails_failed:least': 2.5}", "thresholds.comms_emails_failed:least: 2.5 is not a whole number"),
    (
        "thresholds: {'comms_email_operations_created:ratio_surge': 0.3}",
        "thresholds.comms_email_operations_created:ratio_surge: 0.3 is not a factor; write a number from 1 to 1000",
    ),
    (
        "thresholds: {'comms_data:seconds_fresh': 5m}",
        'thresholds.comms_data:seconds_fresh: "5m" is not a number of seconds; write 1 or more',
    ),
    ("thresholds: {'comms_data:seconds_fresh': .inf}", "thresholds.comms_data:seconds_fresh: Infinity is not a number"),
    ("accounts: [shop]", "accounts: a list is not a mapping"),
    ("accounts: {shop: 7}", "accounts.shop: 7 is not a mapping"),
    ("accounts: {7: {}}", "accounts.7: 7 is not a name of an account"),
    (
        "accounts: {shop: {threshold: {}}}",
        "accounts.shop.threshold: unknown key; did you mean thresholds?; valid keys are objective, thresholds",
    ),
    (
        "accounts: {shop: {thresholds: {'comms_up:ratio_seen': 0.5}}}",
        "accounts.shop.thresholds.comms_up:ratio_seen: is the same for all accounts; set it under thresholds",
    ),
    (
        "accounts: {shop: {thresholds: {'comms_emails_failed:leest': 5}}}",
        "accounts.shop.thresholds.comms_emails_failed:leest: unknown threshold; did you mean comms_emails_failed:least?",
    ),
    ("labels: [team]", "labels: a list is not a mapping; write labels as in `team: mail`"),
    ("labels: {severity: page}", "labels: severity is a label that the alerts already have; choose another name"),
    ("labels: {a-b: x}", 'labels: "a-b" is not a label name;'),
    ('labels: {team: "a\\u2028b"}', 'labels: team: "a\\u2028b" is empty or contains control characters;'),
    ('accounts: {"a\\nb": {}}', 'accounts.a?b: "a\\nb" is not a name of an account'),
    ("accounts: {thresholds: {a: 1}}", "accounts.thresholds.a: unknown key; valid keys are objective, thresholds"),
    ("labels: {team: 7}", "labels: team: 7 is not a string; put it in quotes"),
    ("labels: {team: '{{ $value }}'}", 'labels: team: "{{ $value }}" contains {{, which begins a template; remove it'),
    ("disabled: CommsEmailSurge", 'disabled: "CommsEmailSurge" is not a list of alerts;'),
    ("disabled: [CommsEmailSurg]", 'disabled: "CommsEmailSurg" is not an alert; did you mean CommsEmailSurge?'),
    ("disabled: [7]", "disabled: 7 is not an alert; docs/alerts.md lists them"),
]  # fmt: skip
