"""An API with many accounts, whose truth is known: it serves whatever was counted into it."""

import random
import time
from base64 import b64decode
from collections import Counter
from datetime import UTC, datetime

from aiohttp import web
from aiohttp.test_utils import TestServer

_STATS = [
    "total",
    "recipients",
    "attempts",
    "scheduled",
    "queued",
    "sent",
    "delivered",
    "opened",
    "undelivered",
    "failed",
    "canceled",
]


def _iso(seconds):
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(text):
    return datetime.fromisoformat(text).timestamp()


class World:
    """The operations of all accounts; each account is a user whose name is its SID."""

    def __init__(self, seed):
        self._random = random.Random(seed)
        self.operations = {}
        self.requests = Counter()
        app = web.Application()
        app.router.add_get("/v1/Emails/Operations", self._list)
        app.router.add_get("/v1/Emails/Operations/{id}", self._one)
        self.server = TestServer(app)

    async def __aenter__(self):
        await self.server.start_server()
        return self

    async def __aexit__(self, *_):
        await self.server.close()

    @property
    def url(self):
        return str(self.server.make_url("/v1"))

    def send(self, account, emails):
        """Create an operation of *account*."""
        now = time.time()
        stats = dict.fromkeys(_STATS, 0) | {"total": emails, "recipients": emails, "queued": emails}
        operation_id = f"comms_operation_{self._random.getrandbits(128):032x}"
        mine = self.operations.setdefault(account, {})
        mine[operation_id] = {
            "id": operation_id,
            "status": "PROCESSING",
            "stats": stats,
            "created": now,
            "updated": now,
        }

    def progress(self, account):
        """Let something happen to one of the operations of *account*."""
        operation = self._random.choice(list(self.operations[account].values()))
        stats = operation["stats"]
        count = self._random.randint(0, stats["queued"])
        failed = self._random.randint(0, count)
        stats["queued"] -= count
        stats["failed"] += failed
        stats["sent"] += count - failed
        stats["attempts"] += count - failed
        under_way = stats["sent"] - stats["delivered"] - stats["undelivered"]
        stats["delivered"] += self._random.randint(0, under_way)
        operation["status"] = "PROCESSING" if stats["queued"] else "COMPLETED"
        operation["updated"] = time.time()

    def truth(self, account, stage):
        """Return how many emails of *account* have reached *stage*."""
        return sum(operation["stats"][stage] for operation in self.operations.get(account, {}).values())

    def _mine(self, request):
        account = b64decode(request.headers["Authorization"].split()[1]).decode().partition(":")[0]
        self.requests[account] += 1
        return self.operations.get(account, {})

    async def _list(self, request):
        found = sorted(self._mine(request).values(), key=lambda each: -each["created"])
        if "startDate" in request.query:
            found = [each for each in found if each["created"] >= _seconds(request.query["startDate"])]
        if "endDate" in request.query:
            found = [each for each in found if each["created"] <= _seconds(request.query["endDate"])]
        size, start = int(request.query.get("pageSize", "50")), int(request.query.get("pageToken", "0"))
        more = str(start + size) if start + size < len(found) else None
        page = [_as_json(each) for each in found[start : start + size]]
        return web.json_response({"operations": page, "pagination": {"next": more, "self": str(start)}})

    async def _one(self, request):
        found = self._mine(request).get(request.match_info["id"])
        return web.json_response(_as_json(found) if found else {"code": 20404}, status=200 if found else 404)


def _as_json(operation):
    return {
        "id": operation["id"],
        "status": operation["status"],
        "stats": operation["stats"],
        "createdAt": _iso(operation["created"]),
        "updatedAt": _iso(operation["updated"]),
    }
