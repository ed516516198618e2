"""The format of the web config file, which is exporter-toolkit's.

https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from comms_exporter.web.yaml_nodes import Node, WebConfigError

# The highest bcrypt cost. A comparison takes about five seconds, and a scrape usually times out after ten.
MAX_COST = 16


@dataclass(frozen=True)
class Pem:
    """Certificates or a key in PEM form: the path of a file, or the text; *key* is the setting's name."""

    key: str
    path: Path | None = None
    text: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class TlsConfig:
    """The part tls_server_config."""

    cert: Pem
    private_key: Pem
    client_ca: Pem | None
    verify_mode: ssl.VerifyMode
    allowed_sans: frozenset[str]
    min_version: ssl.TLSVersion
    max_version: ssl.TLSVersion
    ciphers: tuple[str, ...]
    prefer_server_ciphers: bool
    curve: str | None


class RateLimit(NamedTuple):
    """A token bucket: up to *burst* requests at once, and one more per interval."""

    interval_seconds: float
    burst: int


@dataclass(frozen=True, kw_only=True)
class WebConfig:
    """The content of a web config file; *users* maps names to bcrypt hashes."""

    tls: TlsConfig | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    rate_limit: RateLimit | None = None
    warnings: tuple[str, ...] = ()

    @property
    def files(self) -> list[Path]:
        """The other files that it names."""
        pems = (self.tls.cert, self.tls.private_key, self.tls.client_ca) if self.tls else ()
        return [pem.path for pem in pems if pem is not None and pem.path is not None]


def parse(content: bytes, directory: Path) -> WebConfig:
    """Return *content* as a web config whose files are relative to *directory*; opens none of them."""
    warnings: list[str] = []
    parts = Node.parse(content).mapping("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit")
    return WebConfig(
        tls=_tls(parts["tls_server_config"], directory, warnings),
        headers=_headers(parts["http_server_config"], warnings),
        users=_users(parts["basic_auth_users"]),
        rate_limit=_rate_limit(parts["rate_limit"]),
        warnings=tuple(warnings),
    )


_TLS_KEYS = (
    "cert",
    "key",
    "client_ca",
    "cert_file",
    "key_file",
    "client_auth_type",
    "client_ca_file",
    "cipher_suites",
    "curve_preferences",
    "min_version",
    "max_version",
    "prefer_server_cipher_suites",
    "client_allowed_sans",
)
_CLIENT_AUTH = {
    "": ssl.CERT_NONE,
    "NoClientCert": ssl.CERT_NONE,
    # Go accepts any certificate or none here, so we need not request one.
    "RequestClientCert": ssl.CERT_NONE,
    "RequireAnyClientCert": ssl.CERT_REQUIRED,
    "RequireClientCert": ssl.CERT_REQUIRED,  # an alias of RequireAnyClientCert
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    # TLS 1.3 always offers all of its ciphers, as in Go.
    "TLS_AES_128_GCM_SHA256": "",
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
}
_CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
_HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
# Python's bcrypt, unlike Go's, rejects a salt whose last letter has unused bits set.
_HASH = re.compile(r"\$2[abxy]\$([0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_GO_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_NUMBER = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)"
_MAX_GO_SECONDS = 2**63 / 1e9


def _tls(node: Node, directory: Path, warnings: list[str]) -> TlsConfig | None:
    settings = node.mapping(*_TLS_KEYS)
    cert, private_key, client_ca = (
        _pem(settings[name], settings[f"{name}_file"], directory, warnings) for name in ("cert", "key", "client_ca")
    )
    auth = settings["client_auth_type"]
    verify_mode = auth.choice(_CLIENT_AUTH)
    min_version = settings["min_version"].choice(_VERSIONS, "TLS12")
    max_version = settings["max_version"].choice(_VERSIONS, "TLS13")
    suites = settings["cipher_suites"].choices(_CIPHERS)
    curves = settings["curve_preferences"].choices(_CURVES)
    prefer_server_ciphers = settings["prefer_server_cipher_suites"].boolean(default=True)
    allowed_sans = settings["client_allowed_sans"].texts()
    if not (cert or private_key or client_ca or auth.text()):
        if node.items():
            warnings.append(f"{node.key}: no certificate is set, so TLS is off")
        return None
    if cert is None or private_key is None:
        missing = settings["cert" if cert is None else "key"]
        raise settings[f"{missing.name}_file"].error(f"is missing; set it, or {missing.name}")
    _check_client_auth(auth, client_ca, settings["client_allowed_sans"], warnings)
    ciphers = tuple(filter(None, suites))
    if suites and not ciphers:  # only ciphers of TLS 1.3
        min_version = ssl.TLSVersion.TLSv1_3
    if min_version > max_version:
        raise settings["max_version"].error("is below min_version; no client could connect")
    return TlsConfig(
        cert=cert,
        private_key=private_key,
        client_ca=client_ca,
        verify_mode=verify_mode,
        allowed_sans=frozenset(allowed_sans),
        min_version=min_version,
        max_version=max_version,
        ciphers=ciphers,
        prefer_server_ciphers=prefer_server_ciphers,
        curve=_single_curve(curves, settings["curve_preferences"].key, warnings),
    )


def _pem(inline: Node, file: Node, directory: Path, warnings: list[str]) -> Pem | None:
    text, path = inline.text(), file.text()
    if path and text:
        warnings.append(f"{inline.key}: ignored because {file.name} is set")
    if path:
        return Pem(file.key, directory / path)
    return Pem(inline.key, text=text) if text else None


def _check_client_auth(auth: Node, client_ca: Pem | None, allowed_sans: Node, warnings: list[str]) -> None:
    kind = auth.text()
    if client_ca and kind in {"", "NoClientCert"}:
        raise WebConfigError(f"{client_ca.key}: needs client_auth_type; set it to RequireAndVerifyClientCert")
    if kind in {"RequireAnyClientCert", "RequireClientCert"}:
        if client_ca is None:
            raise auth.error(f"{kind} without a CA is not supported; use RequireAndVerifyClientCert and client_ca_file")
        warnings.append(f"{auth.key}: {kind} is treated as RequireAndVerifyClientCert")
    if allowed_sans.is_null:
        return
    if _CLIENT_AUTH[kind] != ssl.CERT_REQUIRED:
        raise allowed_sans.error("needs client_auth_type: RequireAndVerifyClientCert")
    if not allowed_sans.texts():
        raise allowed_sans.error("is empty, so no client could connect; add a name")


def _single_curve(curves: list[str], key: str, warnings: list[str]) -> str | None:
    """Return the only curve to use in handshakes; None leaves OpenSSL its default list, with X25519 first."""
    if len(curves) > 1:
        warnings.append(f"{key}: ignored, because only a single curve can be set here; OpenSSL uses its default list")
    if len(curves) != 1:
        return None
    if curves == ["X25519"]:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ecdh_curve("X25519")
        except (ssl.SSLError, ValueError):
            # Python 3.11.2, for example, uses an OpenSSL function that does not know this curve.
            warnings.append(f"{key}: ignored, because this Python cannot set X25519; OpenSSL uses its default list")
            return None
    return curves[0]


def _headers(node: Node, warnings: list[str]) -> dict[str, str]:
    settings = node.mapping("http2", "headers")
    if settings["http2"].boolean(default=False):
        warnings.append(f"{settings['http2'].key}: ignored; only HTTP/1.1 is supported")
    headers = {}
    settings["headers"].mapping(*_HEADERS)  # rejects other headers
    for name, value in settings["headers"].items():
        text = value.text()
        if _HEADERS[name] and text not in _HEADERS[name]:
            raise value.error(f"is not {' or '.join(_HEADERS[name])}")
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text):
            raise value.error("contains a line break or a control character; remove it")
        if text:
            headers[name] = text
    return headers


def _users(node: Node) -> dict[bytes, bytes]:
    users: dict[bytes, bytes] = {}
    for name, value in node.items():
        # Name and hash may be swapped, and a hash must not be shown.
        is_name = len(name) <= 40 and "$" not in name and name.isprintable()
        key = value.key if is_name else f"{node.key}: user {len(users) + 1}"
        hashed = value.with_key(key).text()
        match = _HASH.fullmatch(hashed)
        if match is None:
            raise WebConfigError(f'{key}: is not a bcrypt hash; create one with htpasswd -nBC 10 ""')
        if not 4 <= int(match[1]) <= MAX_COST:
            raise WebConfigError(f"{key}: has a bcrypt cost outside 4 to {MAX_COST}; create a hash with cost 10")
        users[name.encode()] = hashed.encode()
    return users


def _rate_limit(node: Node) -> RateLimit | None:
    settings = node.mapping("interval", "burst")
    interval, burst = settings["interval"], settings["burst"]
    seconds = _go_duration(interval)
    if burst.is_quoted or not re.fullmatch("[0-9]{1,12}", burst.text("0")):
        raise burst.error("is not a whole number; write 1 or more")
    if not seconds:
        return None
    if int(burst.text("0")) == 0:
        raise burst.error("0 rejects every request; write 1 or more")
    return RateLimit(seconds, int(burst.text()))


def _go_duration(node: Node) -> float:
    text = node.text("0")
    if not re.fullmatch(f"0|({_GO_NUMBER})+", text):
        raise node.error("is not a duration; write 1s or 100ms")
    seconds = sum(float(number) * _GO_UNITS[unit] for number, unit in re.findall(_GO_NUMBER, text))
    if seconds >= _MAX_GO_SECONDS:
        raise node.error("is too long")
    return seconds
