"""Keep the web config file up to date: reload it when it or a file that it names changes."""

import ssl
from pathlib import Path
from typing import NamedTuple

from structlog.typing import FilteringBoundLogger

from comms_exporter.web.tls import create_context, read_file
from comms_exporter.web.web_config import WebConfig, parse
from comms_exporter.web.yaml_nodes import WebConfigError

_Stamp = tuple[int, int, int]


class Loaded(NamedTuple):
    """A valid web config, with an SSL context if it configures TLS."""

    config: WebConfig
    context: ssl.SSLContext | None


class WebConfigFile:
    """The web config file at *path*: the current version, or the last valid one."""

    def __init__(self, path: Path, *, log: FilteringBoundLogger) -> None:
        """Load the file, or raise a WebConfigError that names it."""
        self._path = path
        self._log = log
        self._last_error = ""
        self._stamps: dict[Path, _Stamp | None] = {}
        self._loaded = self._load()
        self._log_warnings()

    def current(self) -> Loaded:
        """Return the web config, reloaded if a file has changed; otherwise this costs a few calls of stat()."""
        if any(_stamp(path) != stamp for path, stamp in self._stamps.items()):
            self._reload()
        return self._loaded

    def _reload(self) -> None:
        try:
            loaded = self._load_compatible()
        except WebConfigError as error:
            if str(error) != self._last_error:
                self._log.error("web config is invalid, keeping the previous one", error=str(error))
            self._last_error = str(error)
            return
        self._loaded, self._last_error = loaded, ""
        self._log.info("web config reloaded")
        self._log_warnings()

    def _load_compatible(self) -> Loaded:
        loaded = self._load()
        if (loaded.context is None) != (self._loaded.context is None):
            raise WebConfigError(f"{self._path}: tls_server_config: turning TLS on or off needs a restart")
        return loaded

    def _load(self) -> Loaded:
        # Stamps first: a file that changes while it is read is read again.
        self._stamps = {self._path: _stamp(self._path)}
        try:
            config = parse(read_file(self._path), self._path.parent)
            self._stamps |= {path: _stamp(path) for path in config.files}
            return Loaded(config, create_context(config.tls) if config.tls else None)
        except WebConfigError as error:
            message = f"{self._path}: {error}"
        raise WebConfigError(message)

    def _log_warnings(self) -> None:
        for warning in self._loaded.config.warnings:
            self._log.warning("web config", warning=warning)


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
