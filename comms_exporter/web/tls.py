"""SSL contexts for the TLS settings of the web config file, with certificates and keys from files or text."""

import ipaddress
import os
import re
import ssl
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from comms_exporter.web.web_config import Pem, TlsConfig
from comms_exporter.web.yaml_nodes import WebConfigError


def create_context(config: TlsConfig) -> ssl.SSLContext:
    """Return an SSL context for *config*; reads its files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        # Deprecated versions are the user's explicit choice.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = config.min_version, config.max_version
    try:
        if config.min_version < ssl.TLSVersion.TLSv1_2:
            # These versions sign with SHA-1, which OpenSSL allows only at security level 0.
            context.set_ciphers(":".join(config.ciphers or ("DEFAULT",)) + ":@SECLEVEL=0")
        elif config.ciphers:
            context.set_ciphers(":".join(config.ciphers))
        if config.curve:
            context.set_ecdh_curve(config.curve)
    except (ssl.SSLError, ValueError):
        raise WebConfigError(
            "tls_server_config: OpenSSL on this machine does not support these ciphers or this curve"
        ) from None
    if not config.prefer_server_ciphers:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    _load_cert(context, config.cert, config.private_key)
    context.verify_mode = config.verify_mode
    if config.client_ca is not None:
        _load_client_ca(context, config.client_ca)
    elif config.verify_mode != ssl.CERT_NONE:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)  # as Go does
    if config.allowed_sans:
        context.sslobject_class = _verifying_names(config.allowed_sans)
    return context


def read_file(path: Path) -> bytes:
    """Return the content of a file, or raise a WebConfigError."""
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"cannot read {path}" + (f": {error.strerror}" if error.strerror else "")
    except ValueError:
        message = f"cannot read {path}: the path contains a NUL character"
    raise WebConfigError(message)


def _load_cert(context: ssl.SSLContext, cert: Pem, private_key: Pem) -> None:
    cert_pem = _read_pem(cert, rb"CERTIFICATE", "certificate")
    key_pem = _read_pem(private_key, rb"[A-Z ]*PRIVATE KEY", "key")
    with _as_file(cert_pem) as cert_path, _as_file(key_pem) as key_path:
        try:
            # Without a password, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(cert_path, key_path, password="")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise WebConfigError(f"{private_key.key}: does not belong to the certificate") from None
            reason = error.reason or "it is damaged, or encrypted"
        except ValueError:
            reason = "it is encrypted"
        else:
            return
    raise WebConfigError(f"{private_key.key}: cannot be used with its certificate: {reason}")


def _load_client_ca(context: ssl.SSLContext, pem: Pem) -> None:
    with _as_file(_read_pem(pem, rb"CERTIFICATE", "certificate")) as path:
        try:
            context.load_verify_locations(path)
        except ssl.SSLError as error:
            message = f"{pem.key}: cannot be used: {error.reason or 'it is damaged'}"
        else:
            return
    raise WebConfigError(message)


def _read_pem(pem: Pem, label: bytes, kind: str) -> bytes:
    try:
        content = read_file(pem.path) if pem.path else pem.text.encode()
    except WebConfigError as error:
        message = f"{pem.key}: {error}"
    else:
        if re.search(rb"^-----BEGIN " + label + rb"-----", content, re.MULTILINE):
            return content
        message = f"{pem.key}: contains no PEM {kind}"
    raise WebConfigError(message)


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Yield the path of a temporary file with *content*: Python's ssl loads keys only from files."""
    if sys.platform == "linux":  # where the file can be in memory, as the disk may be read-only
        number = os.memfd_create("pem")
        try:
            os.write(number, content)
            yield f"/proc/self/fd/{number}"
        finally:
            os.close(number)
    else:
        with tempfile.NamedTemporaryFile() as file:  # which only our user can read
            file.write(content)
            file.flush()
            yield file.name


def _verifying_names(allowed: frozenset[str]) -> type[ssl.SSLObject]:
    class NameVerifyingObject(ssl.SSLObject):
        """Rejects clients whose certificate has no allowed name."""

        def do_handshake(self) -> None:
            super().do_handshake()
            names = (self.getpeercert() or {}).get("subjectAltName", ())
            if allowed.isdisjoint(_normalized(names)):
                raise ssl.SSLCertVerificationError("the client's certificate has no allowed name")

    return NameVerifyingObject


def _normalized(names: Any) -> Iterator[str]:
    for kind, value in names:
        if kind == "IP Address":
            yield str(ipaddress.ip_address(value.strip()))  # OpenSSL does not shorten IPv6 addresses
        elif kind in {"DNS", "email", "URI"}:
            yield value
