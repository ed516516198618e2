"""Connections to the API: the HTTP session, the CA certificates that it trusts, and the proxy."""

import os
import ssl
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from comms_exporter.base.redaction import Redactor
from comms_exporter.base.urls import parse_connectable_url


def open_session(tls: ssl.SSLContext) -> aiohttp.ClientSession:
    """Return a session for all accounts that verifies certificates with *tls* and keeps no cookies."""
    # No limit: an account has at most one request under way, and must not wait for another account's connection.
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls, limit=0), cookie_jar=aiohttp.DummyCookieJar())


def client_tls(ca_file: Path | None) -> ssl.SSLContext:
    """Return an SSL context that trusts the CA certificates in *ca_file*, by default the system's.

    Raise a ValueError if the file contains none.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
    else:
        if ca_file is None or context.cert_store_stats()["x509"]:
            return context
        reason = "it contains no certificate"  # but something else, such as a revocation list
    raise ValueError(f"{ca_file}: {reason}; set a PEM file with CA certificates")


def proxy_for(base_url: str, redactor: Redactor) -> URL | None:
    """Return the proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY set for *base_url*, and mask its password.

    There is none for this machine, whose own servers a proxy elsewhere would not reach, as in Prometheus and other Go programs.
    Raise a ValueError that names the variable if its value is not the URL of a proxy.
    """
    # aiohttp's trust_env would also send credentials from a .netrc.
    url = urlsplit(base_url)
    text = getproxies().get(url.scheme)
    if text is None or proxy_bypass(url.netloc) or _is_loopback(url.hostname or ""):
        return None
    try:
        proxy = parse_proxy_url(text)
    except ValueError as error:
        variable = f"{url.scheme}_proxy"
        problem = f"{variable if os.environ.get(variable) else variable.upper()}: {error}"
    else:
        # As written in the URL, and as sent.
        redactor.add(filter(None, [proxy.raw_password, proxy.password]))
        return proxy
    raise ValueError(problem)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_proxy_url(text: str) -> URL:
    """Return the URL of an HTTP proxy, which may contain a user and a password."""
    # The text is never shown: what is malformed may be the password.
    try:
        url = parse_connectable_url(text.strip())
        # Otherwise, a password that cannot be sent would fail the first request.
        aiohttp.encode_basic_auth(url.user or "", url.password or "", "latin1")
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host or not url.host.isprintable() or " " in url.host:
        raise ValueError("is not the URL of an HTTP proxy; write one such as http://proxy.example:3128")
    return url
