"""The sockets that the exporter listens on: those that it binds, and those that systemd passes."""

import asyncio
import errno
import os
import socket
from collections.abc import Mapping
from typing import Protocol

_SYSTEMD_FIRST = 3  # SD_LISTEN_FDS_START


class CannotListenError(Exception):
    """An address does not exist or is in use; the message names it and the reason."""


class Address(Protocol):
    """Where to listen; no host means every interface."""

    @property
    def host(self) -> str | None: ...  # noqa: D102
    @property
    def port(self) -> int: ...  # noqa: D102


async def bind(address: Address) -> list[socket.socket]:
    """Return a bound socket for every IP address that *address* resolves to."""
    try:
        if address.host is None:
            return [_bind_every_interface(address.port)]
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        bound: list[socket.socket] = []
        try:
            for family, *_, socket_address in dict.fromkeys(found):
                bound.append(socket.create_server(socket_address, family=family))
        except OSError:
            for each in bound:
                each.close()
            raise
    except OSError as error:
        # Python's message repeats the address, so take the system's. Errors of name resolution have no system message.
        reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
        raise CannotListenError(f"cannot listen on {address}: {reason}") from None
    return bound


def systemd_sockets(environ: Mapping[str, str], pid: int) -> list[socket.socket]:
    """Return the listening sockets that systemd passed to the process *pid*, as in sd_listen_fds(3)."""
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not count.isdecimal() or int(count) == 0:
        raise CannotListenError("systemd passed no socket; start the service through its .socket unit")
    sockets: list[socket.socket] = []
    try:
        for number in range(_SYSTEMD_FIRST, _SYSTEMD_FIRST + int(count)):
            sockets.append(socket.socket(fileno=number))
            sockets[-1].set_inheritable(False)
        accepting = all(each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for each in sockets)
    except OSError:
        accepting = False
    if not accepting:
        for each in sockets:
            each.close()
        raise CannotListenError("systemd passed a socket that does not accept connections; use ListenStream=")
    return sockets


def url_of(listener: socket.socket, scheme: str, host: str | None = None) -> str:
    """Return the URL of *listener*, with *host* in place of its IP address if given."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"{scheme}+unix:{os.fsdecode(name)}"
    host = host or name[0]
    return f"{scheme}://[{host}]:{name[1]}" if ":" in host else f"{scheme}://{host}:{name[1]}"


def _bind_every_interface(port: int) -> socket.socket:
    # One socket for IPv4 and IPv6, so that port 0 becomes one port for both.
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                raise
    return socket.create_server(("", port))
