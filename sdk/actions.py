"""Actions, as whoever started them, or was let in, sees them: requests behind the client's methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote
from uuid import UUID

from headrace.sdk.documents import Document, quoted
from headrace.sdk.http import Http

COMPUTE: Final = "compute/v3"
_MOST_PER_PAGE = 500


class ActionRequests:
    """Requests about actions of one provider."""

    def __init__(self, http: Http, provider: str | UUID) -> None:
        """`provider` is its address behind `/actions/`, or the id of a function. Raises `ValueError`."""
        self._http = http
        self._path = f"/actions/{_place(provider)}"

    def get(self, action_id: str) -> Document:
        """The status of an action."""
        document: Document = self._http.request("GET", f"{self._path}/{quoted(action_id, 'action_id')}/status")
        return document

    def pages(self, status: str | Iterable[str], roles: str | Iterable[str], page_size: int) -> Iterator[Document]:
        """The statuses of a list, page after page."""
        limit = min(page_size, _MOST_PER_PAGE)
        query: dict[str, str | int] = {"status": _joined(status), "roles": _joined(roles), "limit": limit}
        for page in self._http.linked_pages(f"{self._path}/actions", query=query):
            yield from page


def _place(provider: str | UUID) -> str:
    text = str(provider).strip("/").removeprefix("actions/")
    try:
        return f"functions/{UUID(text)}"
    except ValueError:
        pass
    if not text or "?" in text or "#" in text:
        raise ValueError(f"{str(provider)!r} is no provider: give its address behind /actions/, or a function's id")
    return quote(text)


def _joined(names: str | Iterable[str]) -> str:
    return names if isinstance(names, str) else ",".join(names)
