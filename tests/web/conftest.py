import pytest
import structlog
from web.certificates import copy_files, openssl, self_signed
from web.serving import disconnect_all


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A directory with certificates of two servers, two CAs, and two clients of one of them."""
    directory = tmp_path_factory.mktemp("certificates")
    for name in ("server", "other", "ca", "stranger"):
        self_signed(directory, name)
    for name, sans in (
        ("friend", "DNS:prometheus.example,URI:spiffe://x/y,IP:fe80::1"),
        ("guest", "DNS:guest.example"),
    ):
        (directory / f"{name}.ext").write_text(f"subjectAltName={sans}\n")
        openssl(
            directory,
            *f"req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name}".split(),
            *f"-keyout {name}.key -out {name}.csr".split(),
        )
        openssl(
            directory,
            *f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -days 30 -extfile {name}.ext -out {name}.pem".split(),
        )
    openssl(directory, *["ec", "-aes256", "-passout", "pass:secret", "-in", "server.key", "-out", "encrypted.key"])
    return directory


@pytest.fixture
def here(tmp_path, made):
    """A directory with all files that web config files in the tests name."""
    copy_files(tmp_path, made)
    return tmp_path


@pytest.fixture(autouse=True)
async def disconnected():
    """No connection of a test stays open for the next test."""
    yield
    await disconnect_all()


class Log:
    """A logger that keeps each line as a tuple: level, event, values."""

    def __init__(self):
        self.lines = []
        self.log = structlog.wrap_logger(
            None, processors=[self], wrapper_class=structlog.make_filtering_bound_logger(0)
        )

    def __call__(self, _, level, event):
        self.lines.append((level, event.pop("event"), *event.values()))
        raise structlog.DropEvent


@pytest.fixture
def log():
    return Log()
