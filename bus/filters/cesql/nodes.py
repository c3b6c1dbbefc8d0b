"""What the parts of an expression do, as functions of an event, and what an event needs for them to be true."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.bus.filters.cesql.casting import CASTS, LEAST, MOST, of_attribute, to_boolean, to_integer, to_string
from headrace.bus.filters.cesql.faults import Fault, FaultKind, Value
from headrace.bus.filters.cesql.functions import Function
from headrace.bus.filters.cesql.likeness import beginning_of, like
from headrace.bus.filters.needs import Anchor, Needs, any_of, need

Event = Mapping[str, Any]
Evaluate = Callable[[Event], Value]

_REQUIRED = frozenset({"id", "source", "specversion", "type"})
_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(eq=False, slots=True)
class Node:
    """A part of an expression: its type, what evaluates it (which raises `Fault`), and how deep it is."""

    gives: type
    value: Evaluate
    depth: int = 1
    needs: Needs = ()
    """What an event needs for this part to be true."""
    name: str | None = None
    """The attribute that this is, if it is one."""
    constant: Value | None = None


def _node(gives: type, value: Evaluate, *parts: Node) -> Node:
    return Node(gives, value, 1 + max((part.depth for part in parts), default=0))


def constant(value: Value) -> Node:
    """What is written down."""
    return Node(type(value), lambda _: value, constant=value)


def attribute(name: str) -> Node:
    """The value of an event's attribute."""

    def found(event: Event) -> Value:
        value = event.get(name)
        if value is None:
            raise Fault(FaultKind.MISSING_ATTRIBUTE)
        return value if type(value) is str else of_attribute(value)

    # Its type is not known; the specification says that Boolean is to be assumed.
    return Node(bool, found, name=name)


def exists(name: str) -> Node:
    """Whether an event has an attribute."""
    if name in _REQUIRED:
        return constant(True)
    return Node(bool, lambda event: event.get(name) is not None)


def liked(inner: Node, pattern: str) -> Node:
    """Whether a text is like a pattern."""
    fits, value = like(pattern), inner.value
    node = _node(bool, lambda event: fits(to_string(value(event))), inner)
    if inner.name is not None:
        node.needs = _needs_of_like(inner.name, pattern)
    return node


def within(inner: Node, parts: list[Node]) -> Node:
    """Whether a value is among others."""
    value, elements = inner.value, [part.value for part in parts]

    def among(event: Event) -> bool:
        wanted = value(event)
        cast = CASTS[type(wanted)]
        return any(cast(element(event)) == wanted for element in elements)

    node = _node(bool, among, inner, *parts)
    if inner.name is not None:
        node.needs = _needs_of_in(inner.name, [part.constant for part in parts])
    return node


def missing_function() -> Node:
    """A call of a function that there is not: it fails when it is evaluated."""

    def missing(_: Event) -> Value:
        raise Fault(FaultKind.MISSING_FUNCTION)

    return Node(bool, missing)


def called(function: Function, arguments: list[Node]) -> Node:
    """A call of a function."""
    takes = [*function.takes, *([function.more] * (len(arguments) - len(function.takes)) if function.more else [])]
    casts = [(CASTS.get(kind, _same), argument.value) for kind, argument in zip(takes, arguments, strict=True)]
    body = function.body

    def call(event: Event) -> Value:
        values = [cast(argument(event)) for cast, argument in casts]
        try:
            return body(*values)
        except Fault as fault:
            fault.source = node
            raise

    node = _node(function.gives, call, *arguments)
    return node


def _same(value: Value) -> Value:
    return value


def denied(inner: Node) -> Node:
    """NOT."""

    def opposed(event: Event) -> bool:
        value = inner.value(event)
        # The kit of the specification wants no integer here, though its table of casts has one.
        if type(value) is int:
            raise Fault(FaultKind.CAST, True, source=node)
        try:
            return not to_boolean(value)
        except Fault as fault:
            fault.value, fault.source = True, node
            raise

    node = _node(bool, opposed, inner)
    return node


def opposite(inner: Node) -> Node:
    """What gives true for false: of what is boolean anyway."""
    value = inner.value
    return _node(bool, lambda event: not value(event), inner)


def negated(inner: Node) -> Node:
    """The minus before something."""
    value = inner.value
    return _node(int, lambda event: _within_32_bits(-to_integer(value(event))), inner)


def _within_32_bits(number: int) -> int:
    if not LEAST <= number <= MOST:
        raise Fault(FaultKind.MATH)
    return number


def _quotient(left: int, right: int) -> int:
    if right == 0:
        raise Fault(FaultKind.MATH)
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _remainder(left: int, right: int) -> int:
    return left - right * _quotient(left, right)


_CALCULATIONS: Final[dict[str, Callable[[int, int], int]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _quotient,
    "%": _remainder,
}


def calculated(sign: str, left: Node, right: Node) -> Node:
    """One of `+ - * / %` between two."""
    calculate, first, second = _CALCULATIONS[sign], left.value, right.value
    return _node(
        int, lambda event: _within_32_bits(calculate(to_integer(first(event)), to_integer(second(event)))), left, right
    )


def compared(sign: str, left: Node, right: Node) -> Node:
    """One of `= != <> < <= > >=` between two."""
    first, second = left.value, right.value
    if sign in _COMPARISONS:
        compare = _COMPARISONS[sign]
        return _node(bool, lambda event: compare(to_integer(first(event)), to_integer(second(event))), left, right)
    wanted = sign == "="

    def equal(event: Event) -> bool:
        left_value, right_value = first(event), second(event)
        # The right side says of which type both are.
        if type(left_value) is not type(right_value):
            left_value = CASTS[type(right_value)](left_value)
        return (left_value == right_value) is wanted

    node = _node(bool, equal, left, right)
    if wanted and left.name is not None and isinstance(right.constant, str):
        node.needs = need(Anchor("exact", left.name, right.constant))
    return node


def chained(operands: list[Node], operators: list[str]) -> Node:
    """Operands with AND, OR and XOR between them, grouped from the right."""
    parts = [operand.value for operand in operands]

    def chain(event: Event) -> bool:
        # From the left, since what decides alone ends it; an XOR turns what all of the rest gives.
        turned = False
        for part, name in zip(parts, operators, strict=False):
            value = to_boolean(part(event))
            if name == "XOR":
                turned ^= value
            elif value is (name == "OR"):
                return value ^ turned
        return to_boolean(parts[-1](event)) ^ turned

    node = _node(bool, chain, *operands)
    node.needs = operands[-1].needs
    for operand, name in zip(reversed(operands[:-1]), reversed(operators), strict=True):
        match name:
            case "AND":
                node.needs = operand.needs + node.needs
            case "OR":
                node.needs = any_of([operand.needs, node.needs])
            case _:
                node.needs = ()
    return node


def _needs_of_like(name: str, pattern: str) -> Needs:
    beginning = beginning_of(pattern)
    if beginning == pattern:
        return need(Anchor("exact", name, pattern))
    return need(Anchor("prefix", name, beginning)) if beginning else ()


def _needs_of_in(name: str, elements: list[Value | None]) -> Needs:
    # An attribute that is a number or boolean turns the elements into such, so that '05' is 5: then texts say nothing.
    texts = [each for each in elements if isinstance(each, str) and _is_only_text(each)]
    return need(*(Anchor("exact", name, each) for each in texts)) if len(texts) == len(elements) else ()


def _is_only_text(text: str) -> bool:
    return not text.lstrip("+-").isdigit() and text.lower() not in ("true", "false")
