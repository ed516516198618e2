"""A fake Comms API that needs hardly any CPU time: it joins prepared JSON texts to pages.

Usage: python -m bench.collect.api OPERATIONS ACCOUNTS. Account N is at /N/v1. Listings with a startDate, such as the exporter's,
apply the changes that the benchmark requested. Listings without one return the same pages and change nothing.
"""

import asyncio
import sys
import time
from email.utils import formatdate
from urllib.parse import parse_qs, urlsplit

from bench.collect import operations
from bench.rpc import reply, serve


class Account:
    """The operations of one account, newest first."""

    def __init__(self, count, seed):
        self.entries = operations.make(count, now=int(time.time()), seed=seed)
        self.shown = count
        self.change = 0
        self.spread = False
        # Times of the first and the last request of each listing, on the monotonic clock.
        self.began = []
        self.served = []

    def begin_listing(self):
        """Apply the changes that were requested for every listing."""
        self.began.append(time.monotonic())
        if self.change:
            first = len(self.entries) - self.shown
            step = self.shown // self.change if self.spread else 1
            now = int(time.time())
            for index in range(first, first + self.change * step, step):
                self.entries[index] = operations.changed(self.entries[index], now=now)

    def page(self, query):
        """Return the JSON of the page for *query*."""
        size = int(query.get("pageSize", ["50"])[0])
        token = query.get("pageToken", [""])[0]
        from_exporter = "startDate" in query
        if not token and from_exporter:
            self.begin_listing()
        offset = int(token.removeprefix("after-") or 0)
        start = len(self.entries) - self.shown + offset
        more = start + size < len(self.entries)
        following = f'"after-{offset + size}"' if more else "null"
        if not more and from_exporter:
            self.served.append(time.monotonic())
        end = f'],"pagination":{{"next":{following},"self":null}}}}'.encode()
        return b"".join([b'{"operations":[', b",".join(self.entries[start : start + size]), end])

    def one(self, identifier):
        """Return the operation *identifier*, or None."""
        wanted = f'{{"id":"{identifier}"'.encode()
        return next((entry for entry in self.entries if entry.startswith(wanted)), None)


class Connection(asyncio.Protocol):
    """One client connection; every request is answered as soon as it is complete."""

    def __init__(self, accounts):
        self._accounts = accounts
        self._received = b""
        self._transport = None

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            self._answer(head.split(b" ", 2)[1].decode())

    def _answer(self, target):
        url = urlsplit(target)
        number, *path = url.path.strip("/").split("/")
        account = self._accounts[int(number)]
        body = account.page(parse_qs(url.query)) if path == ["v1", "Emails", "Operations"] else account.one(path[-1])
        status = "404 Not Found" if body is None else "200 OK"
        body = body or b"{}"
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
            f"Date: {formatdate(usegmt=True)}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)


async def main(count, accounts):
    """Serve until the benchmark closes the pipe."""
    each = [Account(count // accounts, seed) for seed in range(accounts)]
    server = await asyncio.get_running_loop().create_server(lambda: Connection(each), "127.0.0.1", 0)

    def show(count):
        for account in each:
            account.shown = count

    def change(count, *, spread):
        for account in each:
            account.change, account.spread = min(count // accounts, account.shown), spread

    def change_some(every):
        for number, account in enumerate(each):
            account.change, account.spread = int(number % every == 0), False

    def began(account):
        return each[account].began

    def served(account):
        return each[account].served

    async with server:
        reply(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await serve({"show": show, "change": change, "change_some": change_some, "began": began, "served": served})


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
