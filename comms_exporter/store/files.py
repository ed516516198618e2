"""The state file on disk: locks, permissions, and moving a damaged file out of the way."""

import errno
import fcntl
import os
import shutil
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from comms_exporter.store.errors import StateInUseError, StoreError, UnreadableError

# The byte of the file that our lock covers. SQLite's own locks are at 2**30, and nothing is written at either.
_LOCKED_BYTE = 2**40


def check_path(path: Path) -> None:
    """Raise a StoreError if a state file at *path* could not be written; creates nothing."""
    # Missing directories will be created in the nearest existing one.
    existing = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    if existing == path and not path.is_file():
        number = errno.EISDIR if path.is_dir() else errno.EINVAL
    elif existing != path and not existing.is_dir():
        number = errno.ENOTDIR
    elif not os.access(existing, os.R_OK | os.W_OK | (0 if existing == path else os.X_OK)):
        number = errno.EROFS if os.statvfs(existing).f_flag & os.ST_RDONLY else errno.EACCES
    else:
        return
    raise StoreError(f"{path}: {os.strerror(number).lower()}")


@contextmanager
def copy_unused(path: Path, copy: Path) -> Iterator[None]:
    """Copy the database at *path* to *copy*, and keep other processes from using it until the end of the context.

    Creates and changes nothing beside *path*. StateInUseError means that another process uses it.
    """
    with ExitStack() as files:
        with suppress(FileNotFoundError):
            # The only lock of 0.1.0.
            beside = files.enter_context(Path(f"{path}.lock").open("rb"))
            try:
                fcntl.flock(beside, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _in_use(path) from None
        if path.exists() and not path.is_file():
            # To open a named pipe would wait for its other end.
            raise StoreError(f"{path} is not a regular file")
        file = files.enter_context(path.open("rb"))
        if not _lock_byte(file.fileno(), shared=True):
            raise _in_use(path)
        for suffix in ("", "-wal", "-journal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{os.path.realpath(path)}{suffix}", f"{copy}{suffix}")
        yield


class StateFile:
    """A SQLite database at *path* that one process uses at a time.

    Two locks ensure that: one on a file beside it, which holds while the database is replaced, and one on the database
    itself, which holds whatever it is called. SQLite's own locks would also block readers and backups.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1
        self._file = -1
        # What remember() has seen of the database and its write-ahead log.
        self._size = 0
        self._wal: tuple[int, int] | None = None

    def lock(self) -> None:
        """Take the lock on the file beside the database; StateInUseError if another process has it."""
        make_directory(self.path.parent)
        name = Path(f"{self.path}.lock")
        if name.is_symlink():
            raise StoreError(f"{name} is a symbolic link; remove it")
        self._lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        keep_private(self._lock)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(self.path) from None

    def unlock(self) -> None:
        """Release the lock on the file beside the database."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def open(self) -> bool:
        """Open and lock the database, or create an empty one; return whether it is new."""
        make_directory(self.path.parent)
        self.close()
        new = not self.path.exists()
        if new and Path(f"{self.path}-wal").exists():
            raise UnreadableError("the file is missing, but its write-ahead log is not")
        if self.path.is_symlink() and new:
            raise StoreError(f"{self.path} is a symbolic link to nothing; remove it or create its target")
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK
        self._file = os.open(self.path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW if new else flags, 0o600)
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise StoreError(f"{self.path} is not a regular file")
        if not _lock_byte(self._file):
            raise _in_use(self.path)
        keep_private(self._file)
        return new

    def close(self) -> None:
        """Close and unlock the database; SQLite must have closed it before, or loses its own locks on it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def check(self, *, new: bool) -> None:
        """Raise if SQLite would silently accept what it should not: an emptied file, or a link beside it."""
        if not new and os.fstat(self._file).st_size == 0:
            raise UnreadableError("the file is empty")
        for suffix in ("-wal", "-shm", "-journal"):
            if Path(f"{self._real_path}{suffix}").is_symlink():
                raise StoreError(f"{self._real_path}{suffix} is a symbolic link; remove it")

    def header(self) -> bytes:
        """Return the header of the database."""
        return os.pread(self._file, 100, 0)

    def remember(self) -> None:
        """Take the file as it is now as the one that is_same() compares with."""
        self._size, self._wal = os.fstat(self._file).st_size, _identity(f"{self._real_path}-wal")

    def is_same(self) -> bool:
        """Whether nobody has removed, replaced or truncated the database, or removed its write-ahead log."""
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return False
        before, self._size = self._size, now.st_size
        return (
            os.path.samestat(now, os.fstat(self._file))
            and now.st_size >= before
            and _identity(f"{self._real_path}-wal") == self._wal
        )

    def remove(self) -> None:
        """Remove a database in which nothing was saved; the next start would take it for one that was emptied."""
        for suffix in ("-wal", "-shm", ""):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def rename(self, now: float) -> Path:
        """Rename the damaged database and its log; return the new path, which contains the time *now*."""
        self.close()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        target = self.path.with_name(f"{self.path.name}.corrupt-{stamp}")
        number = 1
        while os.path.lexists(target) or os.path.lexists(f"{target}-wal"):
            number += 1
            target = self.path.with_name(f"{self.path.name}.corrupt-{stamp}-{number}")
        # SQLite finds the log by its name.
        for suffix in ("-wal", "-shm", ""):
            source = Path(f"{self.path}{suffix}")
            if os.path.lexists(source):
                source.rename(f"{target}{suffix}")
        return target

    @property
    def _real_path(self) -> str:
        """The path without symbolic links; SQLite keeps its log beside it."""
        return os.path.realpath(self.path)


def make_directory(path: Path) -> None:
    """Create the directory *path* and its missing parents, accessible only to us."""
    if not path.is_dir():
        make_directory(path.parent)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)


def keep_private(file: int) -> None:
    """Remove all permissions for others if there are any; permissions for the group alone are intended."""
    if os.fstat(file).st_mode & 0o007:
        with suppress(PermissionError):  # another user's file
            os.fchmod(file, 0o600)


def _in_use(path: Path) -> StateInUseError:
    return StateInUseError(f"{path} is in use by another process; each process needs its own state file")


def _lock_byte(file: int, *, shared: bool = False) -> bool:
    """Lock *file* until it is closed; return False if another process has locked it. A *shared* lock needs no right to write.

    Not with flock(), which some file systems implement as a lock on the whole file, and so on SQLite's bytes.
    """
    try:
        # The lock of an open file, unlike that of a process, is not lost when SQLite closes the file.
        kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, _LOCKED_BYTE, 1, 0))
    except BlockingIOError:
        return False
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        # Only Linux has locks of open files.
        try:
            fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB, 1, _LOCKED_BYTE)
        except (BlockingIOError, PermissionError):
            return False
    return True


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
