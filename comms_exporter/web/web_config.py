"""exporter-toolkit's web config file: what it says, the TLS it asks for, and both again when its files change.

The document is walked node by node, never turned into objects: what is written without quotes keeps its spelling
(`X-XSS-Protection: 0`), a key that is there twice is seen, and an alias costs what it costs to write.
https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md
"""

import ipaddress
import os
import re
import ssl
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from structlog.typing import FilteringBoundLogger

from comms_exporter.base import yaml_file
from comms_exporter.base.suggestions import closest
from comms_exporter.base.yaml_file import YamlError

T = TypeVar("T")
# A comparison of this cost takes some five seconds, and a scrape rarely has more than ten.
HIGHEST_COST = 16


class WebConfigError(Exception):
    """Says in one line what is wrong with the file, naming the key; never what a secret was."""


@dataclass(frozen=True)
class Pem:
    """Certificates or a key: a file, or the text itself."""

    key: str
    path: Path | None = None
    text: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Tls:
    """How to shake hands."""

    cert: Pem
    private_key: Pem
    client_ca: Pem | None
    verify: ssl.VerifyMode
    allowed_sans: frozenset[str]
    min_version: ssl.TLSVersion
    max_version: ssl.TLSVersion
    ciphers: tuple[str, ...]
    server_prefers: bool
    curve: str | None


class Rate(NamedTuple):
    """A token bucket: one request per interval, after a burst."""

    interval_seconds: float
    burst: int


@dataclass(frozen=True, kw_only=True)
class WebConfig:
    """What a file says."""

    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    rate: Rate | None = None
    warnings: tuple[str, ...] = ()

    @property
    def files(self) -> list[Path]:
        """The files that it names."""
        pems = (self.tls.cert, self.tls.private_key, self.tls.client_ca) if self.tls else ()
        return [pem.path for pem in pems if pem is not None and pem.path is not None]


class Loaded(NamedTuple):
    """A file that can be served by: what it says, and a context for handshakes if it asks for TLS."""

    config: WebConfig
    context: ssl.SSLContext | None


class WebConfigFile:
    """The file at *path* as it is now, and as it last was good while it is not."""

    def __init__(self, path: Path, *, log: FilteringBoundLogger) -> None:
        """Read it, or raise a WebConfigError that names it."""
        self._path = path
        self._log = log
        self._trouble = ""
        self._stamps: dict[Path, tuple[int, int, int] | None] = {}
        self._loaded = self._read()
        self._warn()

    def current(self) -> Loaded:
        """Return it, read again if it or a file that it names has changed; a few stat() when none has."""
        if any(_stamp(path) != stamp for path, stamp in self._stamps.items()):
            self._refresh()
        return self._loaded

    def _refresh(self) -> None:
        try:
            loaded = self._read_again()
        except WebConfigError as error:
            if str(error) != self._trouble:
                self._log.error("web config cannot be used: the last good one stays", error=str(error))
            self._trouble = str(error)
            return
        self._loaded, self._trouble = loaded, ""
        self._log.info("web config read again")
        self._warn()

    def _read_again(self) -> Loaded:
        loaded = self._read()
        if (loaded.context is None) != (self._loaded.context is None):
            raise WebConfigError(f"{self._path}: tls_server_config: turns TLS on or off, which takes a restart")
        return loaded

    def _read(self) -> Loaded:
        # Stamps first: what changes while it is read will be read again.
        self._stamps = {self._path: _stamp(self._path)}
        try:
            config = parse(_content(self._path), self._path.parent)
            self._stamps |= {path: _stamp(path) for path in config.files}
            return Loaded(config, tls_context(config.tls) if config.tls else None)
        except WebConfigError as error:
            complaint = f"{self._path}: {error}"
        raise WebConfigError(complaint)

    def _warn(self) -> None:
        for warning in self._loaded.config.warnings:
            self._log.warning("web config", warning=warning)


def parse(content: bytes, directory: Path) -> WebConfig:
    """Return what *content* says, with the files that it names relative to *directory*; opens none of them."""
    doubts: list[str] = []
    parts = _mapping(
        _document(content), "", ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit")
    )
    return WebConfig(
        tls=_tls(parts.get("tls_server_config"), directory, doubts),
        headers=_http(parts.get("http_server_config"), doubts),
        users=_users(parts.get("basic_auth_users")),
        rate=_rate(parts.get("rate_limit")),
        warnings=tuple(doubts),
    )


# The four parts.

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
    # Whoever comes is let in, with any certificate or none: to ask for it would change nothing.
    "RequestClientCert": ssl.CERT_NONE,
    "RequireAnyClientCert": ssl.CERT_REQUIRED,
    "RequireClientCert": ssl.CERT_REQUIRED,  # an old name of the one above
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
    # TLS 1.3 always offers all of its own, here as in Go.
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
# Go would take a salt whose last letter has bits too many, Python's bcrypt does not.
_HASH = re.compile(r"\$2[abxy]\$([0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_GO_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_NUMBER = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)"
_LONGEST_SECONDS = 2**63 / 1e9


def _tls(node: yaml.Node | None, directory: Path, doubts: list[str]) -> Tls | None:
    where = "tls_server_config"
    given = _mapping(node, where, _TLS_KEYS)

    def text(key: str, default: str = "") -> str:
        return _text(given.get(key), f"{where}.{key}", default)

    def names(key: str, known: Mapping[str, str]) -> list[str]:
        return [_one_of(known, name, f"{where}.{key}") for name in _texts(given, where, key)]

    cert, key, client_ca = (_given_pem(given, name, directory, doubts) for name in ("cert", "key", "client_ca"))
    auth = text("client_auth_type")
    verify = _one_of(_CLIENT_AUTH, auth, f"{where}.client_auth_type")
    lowest = _one_of(_VERSIONS, text("min_version", "TLS12"), f"{where}.min_version")
    highest = _one_of(_VERSIONS, text("max_version", "TLS13"), f"{where}.max_version")
    suites = names("cipher_suites", _CIPHERS)
    curves = names("curve_preferences", _CURVES)
    server_prefers = _flag(given, where, "prefer_server_cipher_suites", default=True)
    sans = _texts(given, where, "client_allowed_sans")
    if not (cert or key or client_ca or auth):
        if given:
            doubts.append(f"{where}: has no certificate, so there is no TLS")
        return None
    if cert is None or key is None:
        missing = "cert" if cert is None else "key"
        raise WebConfigError(f"{where}.{missing}_file: is missing; write it, or {missing}")
    _check_clients(auth, client_ca, None if _is_null(given.get("client_allowed_sans")) else sans, doubts)
    ciphers = tuple(filter(None, suites))
    if suites and not ciphers:  # none for the older versions, then
        lowest = ssl.TLSVersion.TLSv1_3
    if lowest > highest:
        raise WebConfigError(f"{where}.max_version: is below the lowest version; no client could come in")
    return Tls(
        cert=cert,
        private_key=key,
        client_ca=client_ca,
        verify=verify,
        allowed_sans=frozenset(sans),
        min_version=lowest,
        max_version=highest,
        ciphers=ciphers,
        server_prefers=server_prefers,
        curve=_only_curve(curves, doubts),
    )


def _only_curve(curves: list[str], doubts: list[str]) -> str | None:
    """Return the one curve that handshakes are restricted to; None leaves OpenSSL its own curves, X25519 first."""
    where = "tls_server_config.curve_preferences"
    if len(curves) > 1:
        doubts.append(f"{where}: only a single curve can be asked for; OpenSSL chooses among its own")
    if len(curves) != 1:
        return None
    if curves == ["X25519"]:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ecdh_curve("X25519")
        except (ssl.SSLError, ValueError):
            # Python 3.11.2, for one, asks OpenSSL by an interface that does not know this curve.
            doubts.append(
                f"{where}: this Python cannot restrict handshakes to X25519; OpenSSL offers its other curves too"
            )
            return None
    return curves[0]


def _given_pem(given: Mapping[str, yaml.Node], name: str, directory: Path, doubts: list[str]) -> Pem | None:
    key = f"tls_server_config.{name}"
    inline, path = _text(given.get(name), key), _text(given.get(f"{name}_file"), f"{key}_file")
    if path and inline:
        doubts.append(f"{key}: is not used, since {name}_file is given")
    if path:
        return Pem(f"{key}_file", directory / path)
    return Pem(key, text=inline) if inline else None


def _check_clients(auth: str, client_ca: Pem | None, sans: list[str] | None, doubts: list[str]) -> None:
    where = "tls_server_config"
    if client_ca and auth in {"", "NoClientCert"}:
        raise WebConfigError(f"{client_ca.key}: needs client_auth_type; write RequireAndVerifyClientCert")
    if auth in {"RequireAnyClientCert", "RequireClientCert"}:
        if client_ca is None:
            raise WebConfigError(
                f"{where}.client_auth_type: {auth} lets every certificate in, which is not offered here; "
                "write RequireAndVerifyClientCert and client_ca_file"
            )
        doubts.append(f"{where}.client_auth_type: {auth} is taken for RequireAndVerifyClientCert")
    if sans is not None and _CLIENT_AUTH[auth] != ssl.CERT_REQUIRED:
        raise WebConfigError(
            f"{where}.client_allowed_sans: needs certificates; write client_auth_type: RequireAndVerifyClientCert"
        )
    if sans is not None and not sans:
        raise WebConfigError(f"{where}.client_allowed_sans: is empty, so nobody could come in; name somebody")


def _http(node: yaml.Node | None, doubts: list[str]) -> dict[str, str]:
    where = "http_server_config"
    given = _mapping(node, where, ("http2", "headers"))
    if _flag(given, where, "http2", default=False):
        doubts.append(f"{where}.http2: is ignored; this exporter speaks HTTP/1.1")
    where = f"{where}.headers"
    headers = {}
    for name, value in _mapping(given.get("headers"), where, tuple(_HEADERS)).items():
        text = _text(value, f"{where}.{name}")
        if _HEADERS[name] and text not in _HEADERS[name]:
            raise WebConfigError(f"{where}.{name}: is not {' or '.join(_HEADERS[name])}")
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text):
            raise WebConfigError(f"{where}.{name}: has a line break or a control character in it; remove it")
        if text:
            headers[name] = text
    return headers


def _users(node: yaml.Node | None) -> dict[bytes, bytes]:
    users: dict[bytes, bytes] = {}
    for name, value in _mapping(node, "basic_auth_users").items():
        # Somebody will swap the two, and a hash is nobody's business.
        is_name = len(name) <= 40 and "$" not in name and name.isprintable()
        where = f"basic_auth_users.{name}" if is_name else f"basic_auth_users: user {len(users) + 1}"
        text = _text(value, where)
        match = _HASH.fullmatch(text)
        if match is None:
            raise WebConfigError(f'{where}: is not a bcrypt hash; make one with htpasswd -nBC 10 ""')
        if not 4 <= int(match[1]) <= HIGHEST_COST:
            raise WebConfigError(f"{where}: has a cost that is not from 4 to {HIGHEST_COST}; make another of cost 10")
        users[name.encode()] = text.encode()
    return users


def _rate(node: yaml.Node | None) -> Rate | None:
    given = _mapping(node, "rate_limit", ("interval", "burst"))
    interval = _text(given.get("interval"), "rate_limit.interval", "0")
    burst = _text(given.get("burst"), "rate_limit.burst", "0")
    if not re.fullmatch(f"0|({_GO_NUMBER})+", interval):
        raise WebConfigError("rate_limit.interval: is not a duration; write 1s or 100ms")
    seconds = sum(float(number) * _GO_UNITS[unit] for number, unit in re.findall(_GO_NUMBER, interval))
    if seconds >= _LONGEST_SECONDS:
        raise WebConfigError("rate_limit.interval: is too long")
    if not _is_plain(given.get("burst")) or not re.fullmatch("[0-9]{1,12}", burst):
        raise WebConfigError("rate_limit.burst: is not a whole number; write 1 or more")
    if seconds and int(burst) == 0:
        raise WebConfigError("rate_limit.burst: would refuse every request; write 1 or more")
    return Rate(seconds, int(burst)) if seconds else None


# Nodes.


def _document(content: bytes) -> yaml.Node | None:
    try:
        return yaml_file.compose(content.decode("utf-8-sig"))
    except UnicodeDecodeError:  # which holds what it could not decode
        problem = "is not UTF-8 text"
    except YamlError as error:
        problem = str(error)
    raise WebConfigError(problem)


def _mapping(node: yaml.Node | None, where: str, known: tuple[str, ...] | None = None) -> dict[str, yaml.Node]:
    if node is None or _is_null(node):
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise WebConfigError(f"{where}: is not a mapping" if where else "is not a mapping")
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = _text(key, where or "a key")
        line = f"line {key.start_mark.line + 1}: "
        if known is not None and name not in known:
            # What is long or strange is no slip of the keys, but perhaps a secret on the wrong side of a colon.
            shown = name if re.fullmatch("[A-Za-z][A-Za-z0-9_-]{0,40}", name) else "a key"
            raise WebConfigError(
                f"{line}{where + '.' if where else ''}{shown}: is unknown; write {_choice(known, name)}"
            )
        found[name] = value
    return found


def _text(node: yaml.Node | None, where: str, default: str = "") -> str:
    if node is None or _is_null(node):
        return default
    if not isinstance(node, yaml.ScalarNode):
        raise WebConfigError(f"{where}: is not text")
    return str(node.value)


def _texts(given: Mapping[str, yaml.Node], where: str, key: str) -> list[str]:
    node = given.get(key)
    if node is None or _is_null(node):
        return []
    if not isinstance(node, yaml.SequenceNode):
        raise WebConfigError(f"{where}.{key}: is not a list")
    return [_text(each, f"{where}.{key}") for each in node.value]


def _flag(given: Mapping[str, yaml.Node], where: str, key: str, *, default: bool) -> bool:
    node = given.get(key)
    text = _text(node, f"{where}.{key}", "true" if default else "false")
    # Go's YAML also knows y and n.
    if not _is_plain(node) or not re.fullmatch("y|yes|true|on|n|no|false|off", text, re.IGNORECASE):
        raise WebConfigError(f"{where}.{key}: is not true or false")
    return text.lower() in {"y", "yes", "true", "on"}


def _one_of(known: Mapping[str, T], name: str, where: str) -> T:
    if name not in known:
        raise WebConfigError(f"{where}: {name[:60]!r} is unknown; write {_choice(known, name)}")
    return known[name]


def _choice(known: Iterable[str], name: str) -> str:
    names = [each for each in known if each]
    likely = closest(name, names)
    *others, last = [likely] if likely else names[:6]
    return f"{', '.join(others)} or {last}" if others else last


def _is_null(node: yaml.Node | None) -> bool:
    return node is None or bool(node.tag == "tag:yaml.org,2002:null")


def _is_plain(node: yaml.Node | None) -> bool:
    return not isinstance(node, yaml.ScalarNode) or node.style is None


# Handshakes.


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Return a context for handshakes as *tls* wants them, with its files read now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        # Whoever writes TLS10 has been told by everybody else.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = tls.min_version, tls.max_version
    try:
        if tls.min_version < ssl.TLSVersion.TLSv1_2:
            # Those versions sign with SHA-1, which OpenSSL does at no other level.
            context.set_ciphers(":".join(tls.ciphers or ("DEFAULT",)) + ":@SECLEVEL=0")
        elif tls.ciphers:
            context.set_ciphers(":".join(tls.ciphers))
        if tls.curve:
            context.set_ecdh_curve(tls.curve)
    except (ssl.SSLError, ValueError):
        raise WebConfigError("tls_server_config: this machine's OpenSSL lacks its ciphers or its curve") from None
    if not tls.server_prefers:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    _load_cert(context, tls)
    context.verify_mode = tls.verify
    if tls.client_ca is not None:
        _load_client_ca(context, tls.client_ca)
    elif tls.verify != ssl.CERT_NONE:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)  # as Go does
    if tls.allowed_sans:
        context.sslobject_class = _vetting(tls.allowed_sans)
    return context


def _load_cert(context: ssl.SSLContext, tls: Tls) -> None:
    cert, key = _pem(tls.cert, rb"CERTIFICATE", "certificate"), _pem(tls.private_key, rb"[A-Z ]*PRIVATE KEY", "key")
    with _as_file(cert) as cert_path, _as_file(key) as key_path:
        try:
            # Without a password, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(cert_path, key_path, password="")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise WebConfigError(f"{tls.private_key.key}: does not belong to the certificate") from None
            reason = error.reason or "it is damaged, or encrypted"
        except ValueError:
            reason = "it is encrypted"
        else:
            return
    raise WebConfigError(f"{tls.private_key.key}: cannot be used with its certificate: {reason}")


def _load_client_ca(context: ssl.SSLContext, pem: Pem) -> None:
    with _as_file(_pem(pem, rb"CERTIFICATE", "certificate")) as path:
        try:
            context.load_verify_locations(path)
        except ssl.SSLError as error:
            complaint = f"{pem.key}: cannot be used: {error.reason or 'it is damaged'}"
        else:
            return
    raise WebConfigError(complaint)


def _pem(pem: Pem, label: bytes, kind: str) -> bytes:
    try:
        content = _content(pem.path) if pem.path else pem.text.encode()
    except WebConfigError as error:
        complaint = f"{pem.key}: {error}"
    else:
        if re.search(rb"^-----BEGIN " + label + rb"-----", content, re.MULTILINE):
            return content
        complaint = f"{pem.key}: has no {kind} in PEM form in it"
    raise WebConfigError(complaint)


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Lend *content* a path, which is all that Python's ssl can load a key from."""
    if sys.platform == "linux":  # where it need not touch a disk, which might be read-only anyway
        number = os.memfd_create("pem")
        try:
            os.write(number, content)
            yield f"/proc/self/fd/{number}"
        finally:
            os.close(number)
    else:
        with tempfile.NamedTemporaryFile() as file:  # which only we may read
            file.write(content)
            file.flush()
            yield file.name


def _vetting(allowed: frozenset[str]) -> type[ssl.SSLObject]:
    class Vetting(ssl.SSLObject):
        """Ends the handshake with whoever is not on the list."""

        def do_handshake(self) -> None:
            super().do_handshake()
            names = (self.getpeercert() or {}).get("subjectAltName", ())
            if allowed.isdisjoint(_spelled(names)):
                raise ssl.SSLCertVerificationError("the client's certificate has no allowed name")

    return Vetting


def _spelled(names: Any) -> Iterator[str]:
    for kind, value in names:
        if kind == "IP Address":
            yield str(ipaddress.ip_address(value.strip()))  # OpenSSL writes out the zeros of IPv6
        elif kind in {"DNS", "email", "URI"}:
            yield value


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
    except ValueError:
        reason = "there is a NUL character in its name"
    raise WebConfigError(f"cannot read {path}: {reason}")


def _stamp(path: Path, stat: Callable[[Path], os.stat_result] = os.stat) -> tuple[int, int, int] | None:
    try:
        status = stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
