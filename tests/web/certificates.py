"""Certificates, parts of web config files that use them, and TLS clients that trust them."""

import ssl
import subprocess

TLS = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"
MUTUAL = f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n"
HASH = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
HEADERS = "http_server_config:\n  headers:\n    "
USER = "basic_auth_users:\n  alice: "


def indented(path):
    return path.read_text().replace("\n", "\n    ")


def openssl(directory, *words):
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)


def self_signed(directory, name, sans="DNS:localhost,IP:127.0.0.1"):
    """Create NAME.pem and NAME.key in *directory*."""
    openssl(
        directory,
        *f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN={name}".split(),
        *f"-addext subjectAltName={sans} -keyout {name}.key -out {name}.pem".split(),
    )


def copy_files(directory, made):
    """Copy the files that web config files name from the directory *made* to *directory*."""
    files = {"cert.pem": "server.pem", "key.pem": "server.key", "ca.pem": "ca.pem", "other.key": "other.key"}
    for name, source in {**files, "encrypted.key": "encrypted.key"}.items():
        (directory / name).write_bytes((made / source).read_bytes())
    (directory / "nothing.pem").write_text("")


def trusting(certificate, own=None):
    """Return a client's SSL context that trusts *certificate*, with the certificate *own* if given."""
    context = ssl.create_default_context(cafile=str(certificate))
    if own:
        context.load_cert_chain(own.with_suffix(".pem"), own.with_suffix(".key"))
    return context


def handshake(server, client):
    """Return the client's side after a handshake between two contexts, or raise the error that ended it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    unfinished = [client_side, server_side]
    while unfinished:
        for side in list(unfinished):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            unfinished.remove(side)
    return client_side
