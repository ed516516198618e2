"""Whatever the API sends, a poll ends, counts the valid operations, and leaves a page that Prometheus can read."""

import asyncio
import gzip
import json
import os
import re
import tracemalloc
import zlib
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate

import pytest
from harness import simulator_harness
from hypothesis import given, settings
from hypothesis import strategies as st
from operations import NOW, as_json, operation, page_of
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from yarl import URL

from comms_exporter.api import paging
from comms_exporter.api.errors import REASONS
from comms_exporter.collect.health import Reloads
from comms_exporter.expose.exposition import Exposition
from comms_exporter.model.operations import STATS

SOAK = int(os.environ.get("SOAK", "1"))
MIB = 2**20
LATER = NOW + 60

_LABELS = r"\{(?:[a-z_]+=\"(?:[^\"\\\n]|\\[\\\"n])*\",?)*\}"
_NUMBER = r"(?:[+-]Inf|NaN|-?[0-9.]+(?:e[+-]?[0-9]+)?)"
LINE = re.compile(
    rf"# (?:HELP|TYPE|UNIT) .+|# EOF|[a-z_]+(?:{_LABELS})? {_NUMBER}(?: # {_LABELS} {_NUMBER}(?: {_NUMBER})?)?"
)


class Wire:
    """An API that sends one of *answers*, bytes, for each request, and closes the connection; the last one repeats."""

    def __init__(self):
        self.answers = []
        self.requests = 0

    async def serve(self, reader, writer):
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            answer = self.answers[min(self.requests, len(self.answers) - 1)]
            self.requests += 1
            writer.write(answer)
            await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def socket_harness(serve):
    """A harness whose API is a raw socket."""
    async with simulator_harness() as harness:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20)
        async with server:
            port = server.sockets[0].getsockname()[1]
            harness.poller._client._base = URL(f"http://127.0.0.1:{port}/v1")
            yield harness


def say(body, *, status=200, headers=(), length=True):
    """Return an HTTP response with *body* as bytes."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Date: {formatdate(NOW, usegmt=True)}"]
    lines += [f"Content-Length: {len(body)}"] * length
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\nConnection: close\r\n\r\n" + body


def text_of(*operations, following=None):
    return json.dumps({"operations": [as_json(each) for each in operations], "pagination": {"next": following}})


def mail(*names):
    return [
        operation(name, created=LATER, updated=LATER + n, total=3, recipients=3, attempts=2, queued=1, sent=2)
        for n, name in enumerate(names)
    ]


class Invariants:
    """What must hold after every poll, whatever the API sends."""

    def __init__(self, harness):
        self._harness = harness
        self._before = list(harness.poller.state.totals)
        self._good = 0
        self._page = Exposition(lambda: [harness.poller], reloads=Reloads(last_success=NOW), monotonic=harness.clock)

    async def poll(self):
        polls = self._harness.poller.health.polls
        await self._harness.poll()
        health, totals = self._harness.poller.health, self._harness.poller.state.totals
        assert polls + 1 == health.polls
        assert health.problem is None or health.problem.reason in REASONS
        self._good += health.up
        assert health.polls == self._good + sum(health.failures.values())
        assert all(now >= before for now, before in zip(totals, self._before, strict=True))
        self._before = list(totals)

    def check_page(self):
        for openmetrics, parse in ((False, parse_text), (True, parse_openmetrics)):
            page = page_of(self._page, openmetrics=openmetrics).decode()
            assert [] == [line for line in page.removesuffix("\n").split("\n") if not LINE.fullmatch(line)]
            samples = {
                (sample.name, sample.labels.get("operation_id")) for family in parse(page) for sample in family.samples
            }
            shown = {each.id for each in self._harness.poller.view.exposed}
            assert shown == {name for family, name in samples if family == "comms_email_operation_status"}


# JSON values that no operation should have.
odd_json = st.one_of(
    st.sampled_from(
        [
            "null", "true", "false", "NaN", "Infinity", "-Infinity", "-1", "-0", "-0.0", "0.5", "1e999", "-1e999", "1e22", "3.0",
            "9" * 19, "9" * 400, "9" * 5000, "-" + "9" * 5000, "1e-400", '""', '" "', '"\\ud800"', '"\\u0000"', '"\\r\\n# EOF"',
            '"\\u2028"', '"\\"} 1"', '"' + "x" * 5000 + '"', "[]", "{}", "[" * 500 + "]" * 500, '{"a":' * 300 + "1" + "}" * 300,
            '"2026-13-45T99:99:99Z"', '"0001-01-01T00:00:00+23:59"', '"9999-12-31T23:59:59-23:59"', '"2026-W47-6"', '"now"',
        ]
    ),
    st.floats().map(json.dumps),
    st.integers().map(str),
    st.text(max_size=20).map(json.dumps),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ).map(json.dumps),
)  # fmt: skip
places = st.sampled_from(
    [
        *[("id",), ("status",), ("stats",), ("createdAt",), ("updatedAt",), ("novelty",), ("stats", "novelty"), ()],
        *[("stats", name) for name in STATS],
    ]
)


@st.composite
def malformed_operations(draw):
    """Return one operation as JSON with up to three members that are odd, missing or duplicate."""
    raw = as_json(mail("malformed")[0])
    inserted = {}
    for number in range(draw(st.integers(1, 3))):
        mark = f"@{number}@"
        *path, name = draw(places) or ("",)
        holder = raw
        for each in path:
            holder = holder.get(each)
        if not isinstance(holder, dict):
            continue
        way = draw(st.sampled_from(["odd", "odd", "missing", "twice"]))
        if name == "":
            return draw(odd_json)
        if way == "missing":
            holder.pop(name, None)
            continue
        inserted[f'"{mark}"'] = draw(odd_json)
        holder[name] = mark
        if way == "twice":
            # The duplicate comes first: JSON does not define which one counts.
            inserted[f'"{mark}"'] += f', "{name}": ' + draw(odd_json)
    text = json.dumps(raw)
    for mark, odd in inserted.items():
        text = text.replace(mark, odd)
    return text


class TestMalformedOperations:
    @settings(max_examples=60 * SOAK, deadline=None)
    @given(malformed=malformed_operations(), place=st.integers(0, 3))
    async def test_the_other_operations_of_the_page_are_counted(self, malformed, place):
        """A malformed entry is skipped at most."""
        good = [json.dumps(as_json(each)) for each in mail("a", "b", "c")]
        body = (
            '{"operations": ['
            + ", ".join([*good[:place], malformed, *good[place:]])
            + '], "pagination": {"next": null}}'
        )
        wire = Wire()
        async with socket_harness(wire.serve) as harness:
            wire.answers = [say(text_of().encode()), say(body.encode())]
            invariants = Invariants(harness)
            await invariants.poll()
            await invariants.poll()

            state = harness.poller.state
            assert harness.poller.health.up
            assert {"a", "b", "c"} <= state.tracked.keys()
            assert len(state.tracked) + state.malformed <= 4
            others = [each.marks[0] for name, each in state.tracked.items() if name not in {"a", "b", "c"}]
            # One that claims to be older than the first poll is tracked and not counted.
            assert harness.totals["total"] in {9, 9 + sum(others)}
            invariants.check_page()


class TestTruncatedResponses:
    @pytest.mark.parametrize(
        "how", ["with a wrong length", "with its length", "without a length", "in chunks", "gzipped"]
    )
    async def test_a_truncated_response_is_never_applied(self, how):
        """Wherever the response is cut, it counts completely or not at all."""
        body = text_of(*mail("a", "b")).encode()
        headers = []
        if how == "in chunks":
            parts = [body[start : start + 97] for start in range(0, len(body), 97)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])
            headers = [("Transfer-Encoding", "chunked")]
        elif how == "gzipped":
            body, headers = gzip.compress(body, mtime=0), [("Content-Encoding", "gzip")]
        whole = say(body, headers=headers, length=how in {"with its length", "gzipped"})
        wire = Wire()
        async with socket_harness(wire.serve) as harness:
            wire.answers = [say(text_of().encode())]
            invariants = Invariants(harness)
            await invariants.poll()
            for cut in range(0, len(whole), max(1, 7 // SOAK)):
                wire.answers = [say(body[:cut]) if how == "with a wrong length" else whole[:cut]]
                if how == "with a wrong length" and cut >= len(body):
                    break
                await invariants.poll()
                assert harness.poller.health.problem.reason in {"connection", "bad_payload"}
                assert {} == harness.poller.state.tracked
            invariants.check_page()

            wire.answers = [whole]
            await invariants.poll()
            assert {"a", "b"} == harness.poller.state.tracked.keys()


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")


class TestEncodings:
    @pytest.mark.parametrize("encoding", [*ENCODINGS, "latin-1", "cp037"])
    @pytest.mark.parametrize("packed", [None, "gzip", "deflate", "raw deflate"])
    async def test_reads_every_encoding_of_unicode(self, encoding, packed):
        """The first bytes of JSON reveal which Unicode encoding it has; other encodings are invalid."""
        text = json.dumps({"operations": [as_json(each) for each in mail("ä")]}, ensure_ascii=False)
        body = text.encode(encoding)
        pack = {
            None: bytes,
            "gzip": gzip.compress,
            "deflate": zlib.compress,
            "raw deflate": lambda plain: zlib.compress(plain)[2:-4],
        }[packed]
        headers = [("Content-Encoding", packed.split()[-1])] if packed else []
        wire = Wire()
        async with socket_harness(wire.serve) as harness:
            wire.answers = [say(pack(body), headers=headers)]
            invariants = Invariants(harness)
            await invariants.poll()

            if encoding in ENCODINGS:
                assert {"ä"} == harness.poller.state.tracked.keys()
            else:
                assert "bad_payload" == harness.poller.health.problem.reason
            invariants.check_page()


odd_headers = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "Content-Type", "Content-Encoding", "Transfer-Encoding", "Content-Length", "Retry-After", "Location",
                "Set-Cookie", "Connection", "Upgrade", "WWW-Authenticate", "X-Odd", "Content-Range",
            ]
        ),
        st.sampled_from(
            [
                "", "0", "-1", "1", "5", "99999999999999999999", "7.5", "soon", "gzip", "deflate", "br", "zstd", "compress",
                "gzip, gzip", "chunked", "identity", "close", "keep-alive", "websocket", "text/html; charset=utf-16", "; =;",
                "application/json; charset=klingon", "http://127.0.0.1:1/", "//", "x" * 9000, "a=b; Expires=never", "ä",
                "Sat, 21 Nov 2026 12:00:30 GMT", "Sat, 21 Nov 2026 12:00:30", "Sat, 99 Nov 2026 12:00:30 GMT",
                "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 -9999",
                "21 Nov 2026 12:00:30 +99999999", "Sunday, 21-Nov-94 08:49:37 GMT", "1 2 3 4 5 6 7", ",", " ",
            ]
        ),
    ),
    max_size=3,
)  # fmt: skip
bodies = st.one_of(
    st.binary(max_size=200),
    odd_json.map(lambda text: text.encode("utf-8", "surrogatepass")),
    odd_json.map(lambda text: f'{{"operations": {text}}}'.encode()),
    odd_json.map(lambda text: f'{{"operations": [], "pagination": {{"next": {text}}}}}'.encode()),
    odd_json.map(lambda text: f'{{"operations": [], "meta": {text}, "nextPageToken": {text}}}'.encode()),
    odd_json.map(lambda text: f'{{"errors": [{{"message": {text}, "code": {text}}}]}}'.encode()),
    st.just(text_of(*mail("a")).encode()),
    st.just(gzip.compress(text_of(*mail("a")).encode())),
    st.sampled_from([b"[" * 10**6, b'{"a":' * 10**5, b"1" * 10**6, b'"' + b"\\u0000" * 10**5, b"\xef\xbb\xbf", b"\x00"]),
)  # fmt: skip
answers = st.one_of(
    st.builds(
        say,
        bodies,
        status=st.sampled_from([200] * 6 + [100, 101, 102, 199, 201, 204, 206, 299, 301, 304, 307, 400, 401, 403, 404]
                               + [408, 416, 418, 429, 429, 451, 500, 502, 503, 503, 504, 599, 600, 999]),
        headers=odd_headers,
        length=st.booleans(),
    ),
    st.binary(max_size=100),
    st.just(b"HTTP/1.1 200 OK\r\n\r\n"),
    st.just(b"HTTP/9.9 200 OK\r\n\r\n"),
    st.just(b"HTTP/1.1 two hundred\r\n\r\n"),
    st.just(b"SSH-2.0-OpenSSH_9.9\r\n"),
)  # fmt: skip


class TestAnyResponse:
    @settings(max_examples=120 * SOAK, deadline=None)
    @given(first=answers, rest=st.lists(answers, min_size=1, max_size=4))
    async def test_no_response_breaks_the_next_poll(self, first, rest):
        """Garbage fails a poll; the next valid response is read as usual."""
        wire = Wire()
        async with socket_harness(wire.serve) as harness:
            invariants = Invariants(harness)
            wire.answers = [first]
            await invariants.poll()
            wire.requests, wire.answers = 0, [say(text_of(*mail("a")).encode(), length=False), *rest]
            for _ in range(len(rest)):
                await invariants.poll()
            invariants.check_page()

            wire.answers = [say(text_of(*mail("z")).encode())]
            await invariants.poll()
            harness.poller._schedule.next_sweep = 0
            await invariants.poll()
            assert harness.poller.health.up
            assert "z" in harness.poller.state.tracked


class TestSizes:
    @pytest.mark.parametrize("status", [200, 500])
    @pytest.mark.parametrize("kind", ["with its length", "without end", "in chunks", "gzipped"])
    async def test_a_body_of_50_mb_is_not_read_completely(self, kind, status):
        """The memory for a response is bounded, compressed or not."""
        sent = 0
        closed = asyncio.Event()

        async def flood(reader, writer):
            nonlocal sent
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 {status} Whatever\r\nDate: {formatdate(NOW, usegmt=True)}\r\n"
            piece = b" " * MIB
            if kind == "gzipped":
                piece = gzip.compress(piece * 50)
                head += f"Content-Encoding: gzip\r\nContent-Length: {len(piece)}\r\n"
            elif kind == "in chunks":
                head += "Transfer-Encoding: chunked\r\n"
                piece = b"%x\r\n%b\r\n" % (len(piece), piece)
            elif kind == "with its length":
                head += f"Content-Length: {50 * MIB}\r\n"
            with suppress(OSError):
                writer.write(f"{head}\r\n".encode())
                for _ in range(1 if kind == "gzipped" else 50):
                    writer.write(piece)
                    await writer.drain()
                    sent += 1
                await reader.read()
            closed.set()
            writer.close()

        async with socket_harness(flood) as harness:
            invariants = Invariants(harness)
            tracemalloc.start()
            try:
                await invariants.poll()
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            async with asyncio.timeout(5):
                await closed.wait()

            assert harness.poller.health.problem.reason in {"bad_payload", "server"}
            assert {} == harness.poller.state.tracked
            # aiohttp decompresses up to 32 MiB before it passes any of it on.
            assert peak < 64 * MIB
            assert sent < 40
            assert 1 == sum(harness.poller.request_stats.requests.values())

    async def test_an_endless_listing_ends_at_the_limit(self, monkeypatch):
        """An endless chain of tokens fails the poll, and nothing of the listing is applied."""
        monkeypatch.setattr(paging, "MAX_PAGES", 30)
        wire = Wire()
        async with socket_harness(wire.serve) as harness:
            invariants = Invariants(harness)
            wire.answers = [say(text_of(*mail(f"a{n}"), following=f"t{n}").encode()) for n in range(100)]
            await invariants.poll()

            assert 30 == wire.requests
            assert "bad_payload" == harness.poller.health.problem.reason
            assert {} == harness.poller.state.tracked

    @settings(max_examples=30 * SOAK, deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from(["t", "u", "v", "w", "x", "", "  ", None])),
            min_size=1,
            max_size=8,
        )
    )
    async def test_every_chain_of_pages_ends(self, pages):
        """Empty pages continue the listing, a repeated token is an error, and a blank one ends it."""
        names = iter("abcdefghijklmnopqrstuvwxyz")
        listed = [(mail(*[next(names) for _ in range(size)]), token) for size, token in pages]
        ends = next((n for n, (_, token) in enumerate(pages) if not (token or "").strip()), None)
        tokens = [token for _, token in pages[: len(pages) if ends is None else ends]]
        good = ends is not None and len(set(tokens)) == len(tokens)
        wire = Wire()
        async with socket_harness(wire.serve) as harness:
            invariants = Invariants(harness)
            wire.answers = [say(text_of(*operations, following=token).encode()) for operations, token in listed]
            await invariants.poll()

            assert good == harness.poller.health.up
            expected = (
                {each.id for operations, _ in listed[: (ends or 0) + 1] for each in operations} if good else set()
            )
            assert expected == harness.poller.state.tracked.keys()
            invariants.check_page()
