"""Pages of an action's log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.action_provider.errors import InvalidRequest

_DEFAULT_LIMIT = 10
_MOST_PER_PAGE = 100


def log_page(entries: Sequence[dict[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """One page of the entries (oldest first): `limit`, `reverse_order`, and `marker` or `pagination_token`.

    Raises `InvalidRequest` for a limit or marker that cannot be read.
    """
    limit = min(_number(query, ("limit", "per_page"), _DEFAULT_LIMIT), _MOST_PER_PAGE)
    start = _number(query, ("marker", "pagination_token"), 0)
    ordered = list(reversed(entries)) if query.get("reverse_order", "").lower() in ("true", "1") else list(entries)
    page = ordered[start : start + limit]
    more = start + limit < len(ordered)
    document: dict[str, Any] = {"limit": limit, "has_next_page": more, "entries": page}
    if more:
        document["marker"] = str(start + limit)
    return document


def _number(query: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    for name in names:
        text = query.get(name, "")
        if text:
            if not text.isdecimal() or len(text) > 9 or (name in ("limit", "per_page") and int(text) == 0):
                raise InvalidRequest(f"Field '{name}': {text[:40]!r} is not a number that fits here")
            return int(text)
    return default
