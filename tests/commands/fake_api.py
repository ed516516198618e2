"""An API with one operation and four emails, whose names, addresses and content are canaries."""

import asyncio

from aiohttp import web
from operations import NOW, as_json, operation, rfc3339

ID = "comms_operation_01m8c1jmw9jymnx7fqazzj74pw"


def entry(name, status, *, to=("canary.local@a.example",), sender="news@shop.example", tags=None):
    return {
        "id": name,
        "status": status,
        "to": [{"address": each, "name": "Canary Name"} for each in to],
        "from": {"address": sender, "name": "Canary Name"},
        "related": [{"name": "OPERATION", "id": ID}],
        "tags": tags or {},
        "content": {"subject": "canary subject", "html": "canary body"},
        "createdAt": rfc3339(NOW),
        "updatedAt": rfc3339(NOW + 90),
    }


EMAILS = [
    entry("e1", "FAILED", tags={"campaign": "spring"}),
    entry("e2", "UNDELIVERED", to=("canary.local@b.example", "canary.other@c.example")),
    entry("e3", "UNDELIVERED", sender="x@other.example"),
    entry("e4", "DELIVERED"),
]
ERRORS = {"errors": [{"code": 550, "message": "no such user: canary.local@a.example"}]}
RECEIPTS = [{"to": {"address": "canary.local@b.example"}, "status": "UNDELIVERED", "code": 30003, "message": "full"}]


class Api:
    """An API with one operation and four emails."""

    def __init__(self):
        self.requests = []
        self.emails = EMAILS
        # The second page of a listing is never answered.
        self.pages = 1
        # Listings are answered when it is set.
        self.gate = None
        self.operation = as_json(
            operation(ID, created=NOW, status="COMPLETED", total=4, sent=3, delivered=1, failed=1, undelivered=2)
        )
        self.responses = {
            f"/v1/Emails/Operations/{ID}": self.operation,
            f"/v1/Emails/Operations/{ID}/Errors": ERRORS,
            "/v1/Emails/e1": EMAILS[0],
            "/v1/Emails/e2": EMAILS[1],
            "/v1/Emails/e2/Receipts": RECEIPTS,
        }

    async def answer(self, request):
        self.requests.append(request.path_qs.partition("?pageSize")[0].partition("&pageSize")[0])
        if request.path == "/v1/Emails":
            if self.gate is not None:
                await self.gate.wait()
            status = request.query.get("status")
            listed = [each for each in self.emails if status in {None, each["status"]}]
            if "pageToken" in request.query:
                await asyncio.Event().wait()
            more = "2" if self.pages > 1 and status is None else None
            return web.json_response({"emails": listed, "pagination": {"next": more}})
        response = self.responses.get(request.path)
        if isinstance(response, int):
            return web.Response(status=response)
        return web.Response(status=404) if response is None else web.json_response(response)
