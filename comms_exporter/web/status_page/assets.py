"""The files that the status page links to, each at a URL that changes with its content."""

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A file of the page; *url* is relative to the page and names the version, so a cached copy is never stale."""

    name: str
    content_type: str
    text: str
    url: str


def _load(name: str, content_type: str) -> Asset:
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    url = f"static/{name}?{sha256(text.encode()).hexdigest()[:12]}"
    return Asset(name=name, content_type=content_type, text=text, url=url)


STYLE = _load("style.css", "text/css")
SCRIPT = _load("script.js", "text/javascript")
ICON = _load("icon.svg", "image/svg+xml")
ASSETS = (STYLE, SCRIPT, ICON)
