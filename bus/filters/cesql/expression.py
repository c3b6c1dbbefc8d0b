"""CESQL expressions as users meet them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from headrace.bus.errors import InvalidExpression
from headrace.bus.filters.cesql.casting import ZEROS, to_string
from headrace.bus.filters.cesql.faults import Fault, FaultKind, Value
from headrace.bus.filters.cesql.parsing import Parser
from headrace.bus.filters.needs import Needs


class Evaluation(NamedTuple):
    """What an expression gives for an event: always a value, and the first error, if there was one."""

    value: Value
    error: FaultKind | None


class CESQL:
    """A compiled expression over the attributes of an event."""

    __slots__ = ("_root", "_source")

    def __init__(self, text: str | int) -> None:
        """Compile an expression. An integer or boolean is a literal, since YAML takes those for values.

        Raises `InvalidExpression`, which names the position.
        """
        if not isinstance(text, (str, int)):
            raise InvalidExpression(f"an expression is a text, not a {type(text).__name__}")
        self._source = to_string(text)
        self._root = Parser(self._source).parse()

    def evaluate(self, event: Mapping[str, Any]) -> Evaluation:
        """The expression's value for an event, given by its attributes; nothing is raised."""
        try:
            return Evaluation(self._root.value(event), None)
        except Fault as fault:
            # An operator of which a part failed gives the zero of its type, and only the root's value can be seen.
            if fault.value is not None and fault.source is self._root:
                return Evaluation(fault.value, fault.kind)
            return Evaluation(ZEROS[self._root.gives], fault.kind)

    @property
    def needs(self) -> Needs:
        """What an event needs at least to pass."""
        return self._root.needs

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Whether the event passes: the value is true, and nothing went wrong (CESQL as a filter, section 1.2)."""
        try:
            return self._root.value(event) is True
        except Fault:
            return False

    def __repr__(self) -> str:
        return f"CESQL({self._source!r})"
