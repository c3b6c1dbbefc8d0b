"""Match expressions: what may stand in the array of a field, and the tests that come of it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from headrace.bus.filters.patterns import texts
from headrace.bus.filters.patterns.addresses import AddressRange, block, one_address
from headrace.bus.filters.patterns.reading import Node
from headrace.bus.filters.patterns.scalars import LongNumber, Scalar, number, scalar

Test = Callable[[Any], bool]
"""Of one scalar."""

GroupTest = Callable[[Sequence[Scalar]], bool]
"""Of all scalars of one array, or the one that stands alone."""

_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(slots=True)
class Alternatives:
    """Everything that one field may be: any of it is enough. `operators` are those of the dialect."""

    operators: Mapping[str, Operator]
    strict: bool = False
    """Whether addresses and numbers are what they are, not what event-ruler makes of them."""
    literals: set[Scalar] = field(default_factory=set)
    tests: list[Test] = field(default_factory=list)
    many: dict[str, dict[int, Any]] = field(default_factory=dict)
    """By kind: which of the tests are of it, and what each of them wants."""
    ranges: list[AddressRange] = field(default_factory=list)
    groups: list[GroupTest] = field(default_factory=list)
    lengths: list[Test] = field(default_factory=list)
    exists: bool = False
    absent: bool = False
    beginnings: list[str] = field(default_factory=list)
    """Those of the tests that are only a text's beginning."""
    source: Node | None = None
    """Where all of this stands in the pattern."""
    numeric: bool = False
    """Whether a number is among them: then numbers are compared as numbers alone."""

    def read(self, array: Node) -> None:
        """Take in the elements of a field's array. Raises `InvalidPattern`."""
        self.source = array
        for element in array.value:
            if element.kind == "object":
                self._expression(element)
            else:
                self._literal(element)

    def of_text(self, test: texts.TextTest, kind: str, wanted: Any) -> None:
        """Take in a test that only texts can pass; of its kind there may be many."""
        self._of_kind(lambda value: type(value) is str and test(value), kind, wanted)

    def _of_kind(self, test: Test, kind: str, wanted: Any) -> None:
        self.many.setdefault(kind, {})[len(self.tests)] = wanted
        self.tests.append(test)

    def _literal(self, element: Node) -> None:
        match element.kind:
            case "number":
                value = number(element.value)
                if isinstance(value, LongNumber) and self.strict:
                    self.tests.append(exact_test(element, "="))
                else:
                    self.literals.add(value)
                    self.numeric |= not isinstance(value, LongNumber)
            case "string":
                address = one_address(element.value, strict=self.strict)
                if address is None:
                    self.literals.add(element.value)
                else:
                    self.ranges.append(address)
            case "word":
                self.literals.add(scalar(element.value))
            case _:
                raise element.place.refuse("a text, number, true, false, null or match expression is needed here")

    def _expression(self, node: Node) -> None:
        name, body = only_pair(node, "a match expression")
        read = self.operators.get(name)
        if read is None:
            raise node.place.refuse(f"unknown operator {name[:40]!r}; known: {', '.join(self.operators)}")
        read(self, body)

    def _exactly(self, body: Node) -> None:
        self.literals.add(text_of(body))

    def _prefix(self, body: Node) -> None:
        if body.kind == "object":
            wanted = _in_any_case(body)
            self.of_text(texts.begins_in_any_case(wanted), "any-case prefix", wanted)
        else:
            prefix = text_of(body)
            self.of_text(texts.begins(prefix), "prefix", prefix)
            if prefix and not prefix.endswith('"'):
                self.beginnings.append(prefix)

    def _suffix(self, body: Node) -> None:
        if body.kind == "object":
            wanted = _in_any_case(body)
            self.of_text(texts.ends_in_any_case(wanted), "any-case suffix", wanted)
        else:
            self.of_text(texts.ends(text_of(body)), "suffix", text_of(body))

    def _equals_ignore_case(self, body: Node) -> None:
        self.of_text(texts.equals_in_any_case(text_of(body)), "any-case", text_of(body))

    def _wildcard(self, body: Node) -> None:
        pieces = _pieces(body)
        self.of_text(texts.fits_wildcard(pieces), "wildcard", pieces)

    def _exists(self, body: Node) -> None:
        if body.kind != "word" or body.value is None:
            raise body.place.refuse("exists takes true or false")
        if body.value:
            self.exists = True
        else:
            self.absent = True

    def _cidr(self, body: Node) -> None:
        try:
            self.ranges.append(block(text_of(body), strict=self.strict))
        except ValueError as error:
            raise body.place.refuse(str(error)) from None

    def _numeric(self, body: Node) -> None:
        self.numeric = True
        test = numeric_test(body, strict=self.strict)
        if self.strict:
            self.tests.append(test)
        else:
            self._of_kind(test, "numeric", _interval(body))

    def _anything_but(self, body: Node) -> None:
        if body.kind == "object":
            name, wanted = only_pair(body, "anything-but")
            make = _BUT.get(name)
            if make is None:
                raise body.place.refuse(f"anything-but takes no {name[:40]!r}; it takes {', '.join(_BUT)}")
            unwanted = [make(each) for each in _one_or_more(wanted)]
            self.tests.append(lambda value: type(value) is not str or not any(test(value) for test in unwanted))
            return
        values: set[Scalar] = set()
        kinds = set()
        for each in _one_or_more(body):
            if each.kind not in ("string", "number"):
                raise each.place.refuse("anything-but takes texts or numbers")
            kinds.add(each.kind)
            values.add(each.value if each.kind == "string" else comparable(each))
        if len(kinds) > 1:
            raise body.place.refuse("anything-but takes texts or numbers, not both")
        self.numeric |= kinds == {"number"}
        self.tests.append(lambda value: value not in values)


Operator = Callable[[Alternatives, Node], None]
"""Takes what stands behind an operator's name into the alternatives of a field. Raises `InvalidPattern`."""

OPERATORS: Final[Mapping[str, Operator]] = {
    "exactly": Alternatives._exactly,
    "prefix": Alternatives._prefix,
    "suffix": Alternatives._suffix,
    "equals-ignore-case": Alternatives._equals_ignore_case,
    "wildcard": Alternatives._wildcard,
    "anything-but": Alternatives._anything_but,
    "numeric": Alternatives._numeric,
    "exists": Alternatives._exists,
    "cidr": Alternatives._cidr,
}


def only_pair(node: Node, what: str) -> tuple[str, Node]:
    """The only pair of an object. Raises `InvalidPattern` when there are none, or more."""
    if len(node.value) != 1:
        raise node.place.refuse(f"{what} has exactly one operator, this one {len(node.value)}")
    name, body = node.value[0]
    return str(name), body


def text_of(node: Node) -> str:
    """A text. Raises `InvalidPattern`."""
    if node.kind != "string":
        raise node.place.refuse("a text is needed here")
    return str(node.value)


def comparable(node: Node) -> float:
    """A number that a double can be. Raises `InvalidPattern`."""
    value = number(node.value) if node.kind == "number" else None
    if isinstance(value, LongNumber):
        raise node.place.refuse(f"{value.text[:60]} cannot be compared: no IEEE double is that number")
    if value is None:
        raise node.place.refuse("a number is needed here")
    return value


def numeric_test(body: Node, *, strict: bool = False) -> Test:
    """The test of `["=", n]`, `["<", n]` … or of a range such as `[">=", n, "<", m]`. Raises `InvalidPattern`."""
    if body.kind != "array" or len(body.value) not in (2, 4):
        raise body.place.refuse('numeric takes a list such as ["=", 5] or [">", 0, "<=", 5]')
    make = exact_test if strict else _double_test
    name = _sign(body.value[0], tuple(_COMPARISONS))
    first = make(body.value[1], name)
    if len(body.value) == 2:
        return first
    if name not in (">", ">="):
        raise body.value[0].place.refuse("a range begins with > or >=")
    second = make(body.value[3], _sign(body.value[2], ("<", "<=")))
    if _decimal(body.value[1]) >= _decimal(body.value[3]):
        raise body.place.refuse("the bottom of a range must be less than its top")
    return lambda value: first(value) and second(value)


def _double_test(node: Node, name: str) -> Test:
    compare, bound = _COMPARISONS[name], comparable(node)
    return lambda value: type(value) is float and compare(value, bound)


def exact_test(node: Node, name: str) -> Test:
    """A comparison of decimals, whatever their number of digits. Raises `InvalidPattern`."""
    compare, bound = _COMPARISONS[name], _decimal(node)

    def test(value: Scalar) -> bool:
        exact = Decimal(repr(value)) if type(value) is float else value.exact if type(value) is LongNumber else None
        return exact is not None and compare(exact, bound)

    return test


def _decimal(node: Node) -> Decimal:
    if node.kind != "number":
        raise node.place.refuse("a number is needed here")
    try:
        return Decimal(node.value)
    except InvalidOperation:
        raise node.place.refuse(f"{node.value[:60]} is beyond what decimals can hold") from None


def _sign(node: Node, known: tuple[str, ...]) -> str:
    if node.kind != "string" or node.value not in known:
        raise node.place.refuse(f"one of {' '.join(known)} is needed here")
    return str(node.value)


def _in_any_case(body: Node) -> str:
    name, wanted = only_pair(body, "this")
    if name != "equals-ignore-case":
        raise body.place.refuse(f"only equals-ignore-case may stand here, not {name[:40]!r}")
    return text_of(wanted)


def _one_or_more(body: Node) -> list[Node]:
    if body.kind != "array":
        return [body]
    if not body.value:
        raise body.place.refuse("at least one value is needed here")
    return list(body.value)


def _interval(body: Node) -> tuple[tuple[float, int], tuple[float, int]]:
    """The interval that a `numeric_test` of doubles asks for; see `headrace.bus.filters.patterns.many`."""
    bottom, top = (-math.inf, 0), (math.inf, 1)
    for sign, node in zip(body.value[::2], body.value[1::2], strict=True):
        value = comparable(node)
        match sign.value:
            case ">":
                bottom = (value, 1)
            case ">=":
                bottom = (value, 0)
            case "<":
                top = (value, 0)
            case "<=":
                top = (value, 1)
            case _:
                bottom, top = (value, 0), (value, 1)
    return bottom, top


def _wildcard(body: Node) -> texts.TextTest:
    return texts.fits_wildcard(_pieces(body))


def _pieces(body: Node) -> list[str]:
    try:
        return texts.wildcard_pieces(text_of(body))
    except ValueError as error:
        raise body.place.refuse(str(error)) from None


def _not_empty(body: Node) -> str:
    wanted = text_of(body)
    if not wanted:
        raise body.place.refuse("an empty text is at every end: nothing would pass")
    return wanted


_BUT: Final[dict[str, Callable[[Node], texts.TextTest]]] = {
    "prefix": lambda body: texts.begins(_not_empty(body)),
    "suffix": lambda body: texts.ends(_not_empty(body)),
    "equals-ignore-case": lambda body: texts.equals_in_any_case(text_of(body)),
    "wildcard": _wildcard,
}
