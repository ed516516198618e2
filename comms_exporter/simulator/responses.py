"""The shapes of the API's responses, with variants where its documentation and its observed behavior differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

from aiohttp import web

Envelope = Literal["operations", "data"]
ErrorShape = Literal["observed", "documented", "flat"]
Order = Literal["newest", "oldest"]
Bounds = Literal["exclusive", "inclusive"]
EmailTo = Literal["list", "object"]
EmailLink = Literal["related", "operationId", "none"]

_CODES = {401: 20003, 403: 20403, 404: 20404, 405: 20004, 429: 20429, 500: 20500, 503: 20503}
_MESSAGES = {
    401: "Authentication Error - invalid username or password",
    403: "The account is not authorized to perform this action.",
    404: "The resource was not found.",
    429: "Too many requests. Please retry according to the Retry-After response header.",
    500: "An internal error occurred.",
    503: "The service is unavailable. Please retry according to the Retry-After response header.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The variants where the API's real behavior is not known outside Twilio."""

    envelope: Envelope = "operations"
    errors: ErrorShape = "observed"
    order: Order = "newest"
    bounds: Bounds = "exclusive"  # whether operations created exactly at startDate or endDate are listed
    ignore_filters: bool = False
    email_to: EmailTo = "list"  # whether the recipient of an email is a list or a single object
    email_link: EmailLink = "related"  # where an email says which operation it belongs to
    email_content: bool = False  # whether listed emails have their content
    details: bool = True  # whether /Errors and /Receipts exist


class Issue(NamedTuple):
    """One problem in a request, and the JSON path of the field that has it."""

    message: str
    context: str | None = None


class Refusal(Exception):  # noqa: N818 - a response, not an error in this program
    """The API rejects the request with *status*."""

    def __init__(self, status: int, issues: Sequence[Issue] = (), headers: dict[str, str] | None = None) -> None:
        super().__init__(status, issues)
        self.status = status
        self.issues = list(issues)
        self.headers = headers


def bad_request(message: str, context: str | None = None) -> Refusal:
    """Return a 400 with one issue."""
    return Refusal(400, [Issue(message, context)])


def error_response(refusal: Refusal, shape: ErrorShape) -> web.Response:
    """Return the error response in the given shape."""
    issues = refusal.issues or [Issue(_MESSAGES.get(refusal.status, HTTPStatus(refusal.status).phrase))]
    body = _error_body(refusal.status, issues, shape)
    return web.json_response(body, status=refusal.status, headers=refusal.headers)


def page_body(
    name: str, items: Sequence[Any], *, this_token: str, next_token: str | None, size: int, envelope: Envelope
) -> Any:
    """Return one page in the envelope of the API reference (operations) or of the guide (data)."""
    if envelope == "data":
        return {"data": items, "pagination": {"nextPageToken": next_token, "pageSize": size}}
    return {name: items, "pagination": {"next": next_token, "self": this_token}}


def _error_body(status: int, issues: Sequence[Issue], shape: ErrorShape) -> Any:
    code = _CODES.get(status, status)
    if shape == "flat":
        return {"code": code, "message": issues[0].message, "status": status}
    info_url = f"https://www.twilio.com/docs/api/errors/{code}"
    if shape == "documented":
        # In the documented samples, context is the string "null" if no field is concerned.
        return {
            "errors": [
                {"code": code, "message": issue.message, "infoUrl": info_url, "context": issue.context or "null"}
                for issue in issues
            ]
        }
    return {
        "errors": [{"code": code, "context": None, "infoUrl": info_url, "message": issue.message} for issue in issues],
        "status": status,
    }
