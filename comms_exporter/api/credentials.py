"""Credentials of one account, as the Authorization header of its requests."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import aiohttp
from structlog.typing import FilteringBoundLogger

from comms_exporter.base.redaction import Redactor


class Credentials(Protocol):
    """Provides the Authorization header of one account."""

    def header(self) -> str:
        """Return the Authorization header."""

    def refresh(self) -> bool:
        """Reload the credentials, and return whether they changed."""


class ReloadingCredentials:
    """Credentials that are read again when their files change.

    *read* returns user and secret; it raises a ValueError while they cannot be read. *files* are the files it reads.
    """

    def __init__(
        self,
        read: Callable[[], tuple[str, str]],
        *,
        files: Iterable[Path] = (),
        redactor: Redactor,
        log: FilteringBoundLogger,
    ) -> None:
        self._read = read
        self._files = tuple(files)
        self._redactor = redactor
        self._log = log
        self._versions = self._file_versions()
        self._header = self._read_header()
        self._last_error = ""

    def header(self) -> str:
        """Return the header, reloaded if a file has changed."""
        if self._file_versions() != self._versions:
            self.refresh()
        return self._header

    def refresh(self) -> bool:
        """Reload the credentials and return whether they changed; keep the previous ones if they cannot be read."""
        before, self._versions = self._header, self._file_versions()
        try:
            self._header = self._read_header()
        except ValueError as error:
            # Log a repeated error only once.
            if str(error) != self._last_error:
                self._log.warning("cannot reload credentials, using the previous ones", error=str(error))
            self._last_error = str(error)
            return False
        self._last_error = ""
        return self._header != before

    def _read_header(self) -> str:
        user, secret = self._read()
        self._redactor.add([secret])
        return aiohttp.encode_basic_auth(user, secret)

    def _file_versions(self) -> list[tuple[int, int, int] | None]:
        return [_version(file) for file in self._files]


def _version(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
