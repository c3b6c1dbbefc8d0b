"""What an event must have at least to pass a filter: by this the index finds filters without evaluating them."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

MOST_ANCHORS: Final = 64


class Anchor(NamedTuple):
    """One thing that an event can have: an attribute with a text, its beginning or its end, or a field with a value.

    A field is named by its path with dots, `data.state`; its value is a `scalar` of event patterns.
    """

    kind: Literal["exact", "prefix", "suffix", "field"]
    name: str
    value: object


Need = frozenset[Anchor]
"""The event must have at least one of these."""

Needs = tuple[Need, ...]
"""The event must meet each of these; where there is none, nothing can be said."""


def need(*anchors: Anchor) -> Needs:
    """One of these is needed. Of very many nothing is said: they would take more room than they save time."""
    return (frozenset(anchors),) if 0 < len(anchors) <= MOST_ANCHORS else ()


def any_of(alternatives: list[Needs]) -> Needs:
    """What is needed where one of several filters has to be passed."""
    best = [min(needs, key=len) for needs in alternatives if needs]
    if not alternatives or len(best) < len(alternatives):
        return ()
    return need(*frozenset[Anchor]().union(*best))
