"""From an expression's text to what evaluates it.

What binds tighter comes first: functions; NOT and -; LIKE, EXISTS, IN; * / %; + -; comparisons; AND, OR and XOR. These
three are of one rank and are grouped from the right, as the grammar of the specification has it: `a AND b OR c` is
`a AND (b OR c)`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.bus.errors import InvalidExpression
from headrace.bus.filters.cesql import functions
from headrace.bus.filters.cesql.casting import CASTS, LEAST, MOST, of_attribute, to_boolean, to_integer, to_string
from headrace.bus.filters.cesql.faults import Fault, FaultKind, Value
from headrace.bus.filters.cesql.lexing import Token, tokens_of
from headrace.bus.filters.cesql.likeness import beginning_of, like
from headrace.bus.filters.needs import Anchor, Needs, any_of, need

MOST_DEPTH: Final = 100
_MOST_BRACKETS: Final = 50

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


class Parser:
    """Parses one expression. Used once."""

    def __init__(self, text: str) -> None:
        self._tokens = tokens_of(text)
        self._at = 0
        self._depth = 0

    def parse(self) -> Node:
        """The root. Raises `InvalidExpression`."""
        root = self._logic()
        if self._next.kind != "end":
            raise self._refuse("an operator is needed here, or the end")
        if root.depth > MOST_DEPTH:
            raise InvalidExpression(f"an expression is nested at most {MOST_DEPTH} deep, this one {root.depth}")
        return root

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _refuse(self, problem: str, token: Token | None = None) -> InvalidExpression:
        where = token or self._next
        ends = " (the expression ends too early)" if where.kind == "end" else ""
        return InvalidExpression(problem + ends, position=where.at + 1)

    def _expect(self, sign: str) -> None:
        if not self._next.is_sign(sign):
            raise self._refuse(f"{sign!r} is needed here")
        self._at += 1

    def _logic(self) -> Node:
        self._depth += 1
        if self._depth > _MOST_BRACKETS:
            raise self._refuse(f"brackets are nested more than {_MOST_BRACKETS} deep")
        # Operands first, and then grouped from the right: a chain of many is no deep nesting.
        operands, operators = [self._comparison()], []
        while self._next.is_keyword("AND", "OR", "XOR"):
            operators.append(self._take().text)
            operands.append(self._comparison())
        node = operands.pop()
        if operators:
            node = _logic_chain([*operands, node], operators)
        self._depth -= 1
        return node

    def _comparison(self) -> Node:
        node = self._sum()
        while self._next.is_sign("=", "!=", "<>", "<", "<=", ">", ">="):
            sign = self._take().text
            node = _compared(sign, node, self._sum())
        return node

    def _sum(self) -> Node:
        node = self._product()
        while self._next.is_sign("+", "-"):
            sign = self._take().text
            node = _calculated(_SUMS[sign], node, self._product())
        return node

    def _product(self) -> Node:
        node = self._tested()
        while self._next.is_sign("*", "/", "%"):
            sign = self._take().text
            node = _calculated(_PRODUCTS[sign], node, self._tested())
        return node

    def _tested(self) -> Node:
        node = self._unary()
        while True:
            negated = self._next.is_keyword("NOT")
            word = self._tokens[self._at + 1] if negated else self._next
            if not word.is_keyword("LIKE", "IN"):
                return node
            self._at += 2 if negated else 1
            node = self._like(node) if word.text == "LIKE" else self._within(node)
            if negated:
                node = _opposite(node)

    def _like(self, node: Node) -> Node:
        if self._next.kind != "string":
            raise self._refuse("LIKE takes a text in quotes")
        pattern = self._take().text
        fits, inner = like(pattern), node.value
        liked = _node(bool, lambda event: fits(to_string(inner(event))), node)
        if node.name is not None:
            liked.needs = _needs_of_like(node.name, pattern)
        return liked

    def _within(self, node: Node) -> Node:
        self._expect("(")
        parts = [self._logic(), *self._more()]
        inner, elements = node.value, [part.value for part in parts]

        def within(event: Event) -> bool:
            wanted = inner(event)
            cast = CASTS[type(wanted)]
            return any(cast(element(event)) == wanted for element in elements)

        found = _node(bool, within, node, *parts)
        if node.name is not None:
            found.needs = _needs_of_in(node.name, [part.constant for part in parts])
        return found

    def _unary(self) -> Node:
        signs: list[Token] = []
        while self._next.is_keyword("NOT") or self._next.is_sign("-", "+"):
            signs.append(self._take())
        node = self._atom(negative=bool(signs) and signs[-1].is_sign("-"))
        if signs and signs[-1].is_sign("+", "-") and self._tokens[self._at - 1].kind == "integer":
            signs.pop()  # The sign is the number's own.
        for sign in reversed(signs):
            if sign.is_sign("+"):
                raise self._refuse("+ may only stand before a number, or between two", sign)
            node = _negated(node) if sign.is_sign("-") else _denied(node)
        return node

    def _atom(self, *, negative: bool) -> Node:
        token = self._take()
        if token.kind == "integer":
            return self._integer(token, negative=negative)
        if token.kind == "string" or token.is_keyword("TRUE", "FALSE"):
            return _constant(token.text if token.kind == "string" else token.text == "TRUE")
        if token.is_keyword("EXISTS"):
            return self._exists()
        if token.is_sign("("):
            node = self._logic()
            self._expect(")")
            return node
        if token.kind in ("name", "function") and self._next.is_sign("("):
            return self._call(token)
        if token.kind == "name":
            return _attribute(token.text.lower())
        self._at -= 1
        raise self._refuse("an attribute, a value, a function or ( is needed here")

    def _integer(self, token: Token, *, negative: bool) -> Node:
        number = int(token.text) if len(token.text) < 20 else MOST + 2
        number = -number if negative else number
        if not LEAST <= number <= MOST:
            raise self._refuse("an integer has 32 bits: -2147483648 to 2147483647", token)
        return _constant(number)

    def _exists(self) -> Node:
        token = self._take()
        if token.kind not in ("name", "integer"):
            raise self._refuse("EXISTS takes the name of an attribute", token)
        name = token.text.lower()
        if name in _REQUIRED:
            return _constant(True)
        return Node(bool, lambda event: event.get(name) is not None)

    def _more(self) -> list[Node]:
        parts: list[Node] = []
        while self._next.is_sign(","):
            self._at += 1
            parts.append(self._logic())
        self._expect(")")
        return parts

    def _call(self, token: Token) -> Node:
        if any(sign.isdigit() for sign in token.text):
            raise self._refuse(f"{token.text[:40]!r} is no name of a function: letters and _ only", token)
        self._expect("(")
        if self._next.is_sign(")"):
            self._at += 1
            arguments = []
        else:
            arguments = [self._logic(), *self._more()]
        function = functions.find(token.text, len(arguments))
        return _missing_function() if function is None else _called(function, arguments)


def _constant(value: Value) -> Node:
    return Node(type(value), lambda _: value, constant=value)


def _attribute(name: str) -> Node:
    def attribute(event: Event) -> Value:
        value = event.get(name)
        if value is None:
            raise Fault(FaultKind.MISSING_ATTRIBUTE)
        return value if type(value) is str else of_attribute(value)

    # Its type is not known; the specification says that Boolean is to be assumed.
    return Node(bool, attribute, name=name)


def _missing_function() -> Node:
    def missing(_: Event) -> Value:
        raise Fault(FaultKind.MISSING_FUNCTION)

    return Node(bool, missing)


def _called(function: functions.Function, arguments: list[Node]) -> Node:
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


def _denied(inner: Node) -> Node:
    def denied(event: Event) -> bool:
        value = inner.value(event)
        # The kit of the specification wants no integer here, though its table of casts has one.
        if type(value) is int:
            raise Fault(FaultKind.CAST, True, source=node)
        try:
            return not to_boolean(value)
        except Fault as fault:
            fault.value, fault.source = True, node
            raise

    node = _node(bool, denied, inner)
    return node


def _opposite(inner: Node) -> Node:
    value = inner.value
    return _node(bool, lambda event: not value(event), inner)


def _negated(inner: Node) -> Node:
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


_SUMS: Final[dict[str, Callable[[int, int], int]]] = {"+": operator.add, "-": operator.sub}
_PRODUCTS: Final[dict[str, Callable[[int, int], int]]] = {"*": operator.mul, "/": _quotient, "%": _remainder}


def _calculated(calculate: Callable[[int, int], int], left: Node, right: Node) -> Node:
    first, second = left.value, right.value
    return _node(
        int, lambda event: _within_32_bits(calculate(to_integer(first(event)), to_integer(second(event)))), left, right
    )


def _compared(sign: str, left: Node, right: Node) -> Node:
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


def _logic_chain(operands: list[Node], operators: list[str]) -> Node:
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
