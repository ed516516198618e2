"""How the API words its answers, and the ways in which its documentation and its traffic disagree about that."""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

from aiohttp import web

Envelope = Literal["operations", "data"]
ErrorShape = Literal["observed", "documented", "flat"]
Order = Literal["newest", "oldest"]
Bounds = Literal["exclusive", "inclusive"]

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
    """The choices where nobody outside Twilio knows what the API really does."""

    envelope: Envelope = "operations"
    errors: ErrorShape = "observed"
    order: Order = "newest"
    bounds: Bounds = "exclusive"  # whether startDate and endDate themselves count
    ignore_filters: bool = False


class Issue(NamedTuple):
    """One thing wrong with a request, and the JSON path of the field it is about."""

    message: str
    context: str | None = None


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of the program
    """What the API answers instead of doing what it was asked."""

    def __init__(self, status: int, issues: Sequence[Issue] = (), headers: dict[str, str] | None = None) -> None:
        super().__init__(status, issues)
        self.status = status
        self.issues = list(issues)
        self.headers = headers


def bad_request(message: str, context: str | None = None) -> Refusal:
    """Refuse a request for one reason."""
    return Refusal(400, [Issue(message, context)])


def word_refusal(refusal: Refusal, shape: ErrorShape) -> web.Response:
    """Say no in the chosen shape."""
    issues = refusal.issues or [Issue(_MESSAGES.get(refusal.status, HTTPStatus(refusal.status).phrase))]
    body = _error_body(refusal.status, issues, shape)
    return web.json_response(body, status=refusal.status, headers=refusal.headers)


def word_page(
    name: str, items: Sequence[Any], *, own: str, following: str | None, size: int, envelope: Envelope
) -> Any:
    """Wrap one page as the reference does, or as the guide does."""
    if envelope == "data":
        return {"data": items, "pagination": {"nextPageToken": following, "pageSize": size}}
    return {name: items, "pagination": {"next": following, "self": own}}


def _error_body(status: int, issues: Sequence[Issue], shape: ErrorShape) -> Any:
    code = _CODES.get(status, status)
    if shape == "flat":
        return {"code": code, "message": issues[0].message, "status": status}
    info_url = f"https://www.twilio.com/docs/api/errors/{code}"
    if shape == "documented":
        # The samples hold the text "null" where there is no field to point at.
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
