"""From an expression's text to what evaluates it.

What binds tighter comes first: functions; NOT and -; LIKE, EXISTS, IN; * / %; + -; comparisons; AND, OR and XOR. These
three are of one rank and are grouped from the right, as the grammar of the specification has it: `a AND b OR c` is
`a AND (b OR c)`.
"""

from __future__ import annotations

from typing import Final

from headrace.bus.errors import InvalidExpression
from headrace.bus.filters.cesql import functions, nodes
from headrace.bus.filters.cesql.casting import LEAST, MOST
from headrace.bus.filters.cesql.lexing import Token, tokens_of
from headrace.bus.filters.cesql.nodes import Node

MOST_DEPTH: Final = 100
_MOST_BRACKETS: Final = 50


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
            node = nodes.chained([*operands, node], operators)
        self._depth -= 1
        return node

    def _comparison(self) -> Node:
        node = self._sum()
        while self._next.is_sign("=", "!=", "<>", "<", "<=", ">", ">="):
            sign = self._take().text
            node = nodes.compared(sign, node, self._sum())
        return node

    def _sum(self) -> Node:
        node = self._product()
        while self._next.is_sign("+", "-"):
            sign = self._take().text
            node = nodes.calculated(sign, node, self._product())
        return node

    def _product(self) -> Node:
        node = self._tested()
        while self._next.is_sign("*", "/", "%"):
            sign = self._take().text
            node = nodes.calculated(sign, node, self._tested())
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
                node = nodes.opposite(node)

    def _like(self, node: Node) -> Node:
        if self._next.kind != "string":
            raise self._refuse("LIKE takes a text in quotes")
        return nodes.liked(node, self._take().text)

    def _within(self, node: Node) -> Node:
        self._expect("(")
        return nodes.within(node, [self._logic(), *self._more()])

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
            node = nodes.negated(node) if sign.is_sign("-") else nodes.denied(node)
        return node

    def _atom(self, *, negative: bool) -> Node:
        token = self._take()
        if token.kind == "integer":
            return self._integer(token, negative=negative)
        if token.kind == "string" or token.is_keyword("TRUE", "FALSE"):
            return nodes.constant(token.text if token.kind == "string" else token.text == "TRUE")
        if token.is_keyword("EXISTS"):
            return self._exists()
        if token.is_sign("("):
            node = self._logic()
            self._expect(")")
            return node
        if token.kind in ("name", "function") and self._next.is_sign("("):
            return self._call(token)
        if token.kind == "name":
            return nodes.attribute(token.text.lower())
        self._at -= 1
        raise self._refuse("an attribute, a value, a function or ( is needed here")

    def _integer(self, token: Token, *, negative: bool) -> Node:
        number = int(token.text) if len(token.text) < 20 else MOST + 2
        number = -number if negative else number
        if not LEAST <= number <= MOST:
            raise self._refuse("an integer has 32 bits: -2147483648 to 2147483647", token)
        return nodes.constant(number)

    def _exists(self) -> Node:
        token = self._take()
        if token.kind not in ("name", "integer"):
            raise self._refuse("EXISTS takes the name of an attribute", token)
        return nodes.exists(token.text.lower())

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
        return nodes.missing_function() if function is None else nodes.called(function, arguments)
