"""Pages of an action's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.action_provider.errors import InvalidRequest

_DEFAULT_LIMIT = 10
_MOST_PER_PAGE = 100


def log_page(entries: Sequence[dict[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """One page of the entries, which are given oldest first.

    `per_page`, else `limit`, is how many entries it has (clients send `limit` always, and `per_page` on top of it);
    `marker`, or `pagination_token`, is where it begins; `reverse_order` turns the order round. A marker names an entry,
    not a distance from the end: what happens while somebody turns pages backwards does not shift them.

    Raises `InvalidRequest` for a limit or marker that cannot be read.
    """
    limit = min(_number(query, ("per_page", "limit"), _DEFAULT_LIMIT), _MOST_PER_PAGE)
    if query.get("reverse_order", "").lower() in ("true", "1"):
        start = min(_number(query, ("marker", "pagination_token"), len(entries)), len(entries))
        following = max(start - limit, 0)
        page, more = list(reversed(entries[following:start])), following > 0
    else:
        start = _number(query, ("marker", "pagination_token"), 0)
        following = start + limit
        page, more = list(entries[start:following]), following < len(entries)
    document: dict[str, Any] = {"limit": limit, "has_next_page": more, "entries": page}
    if more:
        document["marker"] = str(following)
    return document


def _number(query: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    for name in names:
        text = query.get(name, "")
        if text:
            if not text.isdecimal() or len(text) > 9 or (name in ("limit", "per_page") and int(text) == 0):
                raise InvalidRequest(f"Field '{name}': {text[:40]!r} is not a number that fits here")
            return int(text)
    return default
