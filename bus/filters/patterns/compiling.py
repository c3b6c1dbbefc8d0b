"""From a pattern's tree to rules: a pattern with `$or` is several of them, of which one has to fit.

The order of fields matters where `$or` is used: a field replaces the same field of every rule that there is by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from headrace.bus.filters.patterns.operators import Alternatives, Operator
from headrace.bus.filters.patterns.reading import Node

MOST_FIELDS: Final = 256
MOST_RULES: Final = 1000

OR: Final = "$or"
_RESERVED: Final = frozenset(
    {
        *("exactly", "equals-ignore-case", "prefix", "suffix", "anything-but", "exists", "wildcard", "numeric", "cidr"),
        *("=", "<", "<=", ">", ">=", "regex", "not-wildcard", "not-equals-ignore-case"),
        *("date-after", "date-on-or-after", "date-before", "date-on-or-before", "in-date-range"),
        *("ip-address-in-range", "ip-address-not-in-range"),
    }
)
"""Names that event-ruler keeps for itself below `$or`."""

Rule = dict[str, Alternatives]
"""What each field, named by its path with dots, may be."""


class Compiler:
    """Turns one tree into rules. Used once."""

    def __init__(self, operators: Mapping[str, Operator], *, strict: bool) -> None:
        self._fields = 0
        self._operators = operators
        self._strict = strict

    def rules(self, root: Node) -> list[Rule]:
        """The rules. Raises `InvalidPattern`."""
        if root.kind != "object":
            raise root.place.refuse("a pattern is an object")
        rules: list[Rule] = []
        self._object(root, "", rules, reserved=False)
        return rules

    def _object(self, node: Node, path: str, rules: list[Rule], *, reserved: bool) -> None:
        if not node.value:
            raise node.place.refuse("an empty object would match nothing; name a field")
        for name, body in node.value:
            if name == OR:
                self._either(body, path, rules)
                continue
            if reserved and name in _RESERVED:
                raise body.place.refuse(f"{name!r} is no name of a field below {OR}")
            place = f"{path}.{name}" if path else name
            if body.kind == "object":
                self._object(body, place, rules, reserved=reserved)
            elif body.kind == "array":
                self._field(body, place, rules)
            else:
                raise body.place.refuse('a field takes an array of what it may be, such as ["done"], or an object')

    def _field(self, body: Node, path: str, rules: list[Rule]) -> None:
        self._fields += 1
        if self._fields > MOST_FIELDS:
            raise body.place.refuse(f"a pattern has at most {MOST_FIELDS} fields")
        if not body.value:
            raise body.place.refuse("an empty array would match nothing; say what the field may be")
        alternatives = Alternatives(self._operators, self._strict)
        alternatives.read(body)
        if not rules:
            rules.append({})
        for rule in rules:
            rule[path] = alternatives

    def _either(self, body: Node, path: str, rules: list[Rule]) -> None:
        if body.kind != "array" or len(body.value) < 2:
            raise body.place.refuse(f"{OR} takes an array of two objects or more")
        before = list(rules) or [{}]
        rules.clear()
        for branch in body.value:
            if branch.kind != "object":
                raise branch.place.refuse(f"only objects may stand in the array of {OR}")
            own = [dict(rule) for rule in before]
            self._object(branch, path, own, reserved=True)
            rules.extend(own)
            if len(rules) > MOST_RULES:
                raise body.place.refuse(f"the branches of {OR} make more than {MOST_RULES} combinations")
