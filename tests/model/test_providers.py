"""A domain belongs to one mailbox provider, or to none."""

import re
from collections import Counter

import pytest

from comms_exporter.model.providers import OTHER, PROVIDERS, Providers, provider_of


@pytest.mark.parametrize(
    ("domain", "provider"),
    [
        ("gmail.com", "gmail"),
        ("hotmail.co.uk", "microsoft"),
        ("aol.com", "yahoo"),
        ("vip.qq.com", "tencent"),
        ("contoso.onmicrosoft.com", "microsoft"),
        ("a.b.c.d.e.f.g.h.i.j.web.de", "gmx"),
        ("example.com", OTHER),
        ("notgmail.com", OTHER),
        ("gmail.com.example", OTHER),
        ("com", OTHER),
        ("", OTHER),
        (".", OTHER),
    ],
)
def test_a_domain_has_the_provider_of_the_domain_above_it(domain, provider):
    assert provider == provider_of(domain)


def test_every_domain_has_one_provider():
    domains = Counter(domain for each in PROVIDERS.values() for domain in each)

    assert {1} == set(domains.values())


def test_names_and_domains_are_written_as_labels_and_mail_have_them():
    assert all(re.fullmatch(r"[a-z][a-z-]*", name) for name in PROVIDERS)
    assert all(re.fullmatch(r"([a-z0-9-]+\.)+[a-z]+", domain) for domains in PROVIDERS.values() for domain in domains)


def test_more_providers_are_added_and_existing_ones_extended():
    providers = Providers({"acme": ["acme.example", "web.de"], "gmail": ["corp.example"]})

    assert "acme" == providers.provider_of("mail.acme.example")
    assert "acme" == providers.provider_of("web.de")
    assert "gmail" == providers.provider_of("corp.example")
    assert "gmail" == providers.provider_of("gmail.com")
    assert (*PROVIDERS, "acme", OTHER) == providers.names
