"""TLS for the tests: certificates, web config text that names them, and clients that trust them."""

import ssl
import subprocess

TLS = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"
MUTUAL = f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n"


def openssl(directory, *words):
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)


def self_signed(directory, name, sans="DNS:localhost,IP:127.0.0.1"):
    """Make NAME.pem and NAME.key in *directory*."""
    openssl(
        directory,
        *f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={name}".split(),
        *f"-addext subjectAltName={sans} -keyout {name}.key -out {name}.pem".split(),
    )


def lay_out(directory, made):
    files = {"cert.pem": "server.pem", "key.pem": "server.key", "ca.pem": "ca.pem", "other.key": "other.key"}
    for name, source in {**files, "encrypted.key": "encrypted.key"}.items():
        (directory / name).write_bytes((made / source).read_bytes())
    (directory / "nothing.pem").write_text("")


def trusting(certificate, own=None):
    context = ssl.create_default_context(cafile=str(certificate))
    if own:
        context.load_cert_chain(own.with_suffix(".pem"), own.with_suffix(".key"))
    return context
