"""Event patterns as users meet them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from headrace.bus.errors import InvalidPattern
from headrace.bus.filters.explanation import Explanation
from headrace.bus.filters.needs import Needs, any_of
from headrace.bus.filters.patterns.choices import Choices
from headrace.bus.filters.patterns.compiling import Compiler
from headrace.bus.filters.patterns.extended import EXTENDED
from headrace.bus.filters.patterns.field_test import FieldTest
from headrace.bus.filters.patterns.operators import OPERATORS
from headrace.bus.filters.patterns.paths import Fields, steps_to
from headrace.bus.filters.patterns.reading import read
from headrace.bus.filters.patterns.scalars import read_event

Dialect = Literal["eventbridge", "extended"]
"""`extended` adds operators to EventBridge's, and compares addresses and numbers as what they are."""

MOST_PATTERN_CHARACTERS: Final = 16_384
_MOST_WAYS_EXPLAINED: Final = 20


class EventPattern:
    """A compiled pattern: what an event must look like.

    Its meaning is that of aws/event-ruler 2.0, the engine of Amazon EventBridge; the `extended` dialect also knows
    `all-of`, `none-of` and `array-length`.
    """

    __slots__ = ("_names", "_rules", "_source", "_steps", "_tests")

    def __init__(self, pattern: str | bytes | dict[str, Any], *, dialect: Dialect = "eventbridge") -> None:
        """Compile a pattern, given as JSON text or as a dict. A text may repeat names, and keeps all digits of numbers.

        Raises `InvalidPattern`, which names the place.
        """
        if isinstance(pattern, (str, bytes)) and len(pattern) > MOST_PATTERN_CHARACTERS:
            raise InvalidPattern(f"a pattern has at most {MOST_PATTERN_CHARACTERS} characters, this one {len(pattern)}")
        extended = dialect == "extended"
        rules = Compiler(EXTENDED if extended else OPERATORS, strict=extended).rules(read(pattern))
        # event-ruler goes through fields by name, in the order of UTF-16. It shows where a field must be absent.
        names = sorted(
            {name for rule in rules for name in rule}, key=lambda name: name.encode("utf-16-be", "surrogatepass")
        )
        numbers = {name: number for number, name in enumerate(names)}
        self._source = pattern
        self._names = names
        lengths = {name for rule in rules for name, wanted in rule.items() if wanted.lengths}
        self._steps = steps_to(names, lengths=lengths)
        tests: dict[int, int] = {}
        self._tests: list[FieldTest] = []
        self._rules: list[tuple[int, ...]] = []
        for rule in rules:
            own = []
            for name in sorted(rule, key=numbers.__getitem__):
                alternatives = rule[name]
                if id(alternatives) not in tests:
                    tests[id(alternatives)] = len(self._tests)
                    self._tests.append(FieldTest(numbers[name], alternatives))
                own.append(tests[id(alternatives)])
            self._rules.append(tuple(own))

    def matches(self, event: str | bytes | Mapping[str, Any]) -> bool:
        """Whether an event, as JSON text or object, passes. Raises `DecodeError` when it is no JSON object."""
        fields = self._fields_of(event)
        tests = self._tests
        if not fields.lasts:
            if len(self._rules) == 1:
                return all(tests[number].passes(fields) for number in self._rules[0])
            passed = [test.passes(fields) for test in tests]
            return any(all(passed[number] for number in rule) for rule in self._rules)
        possible = [test.may_pass(fields) for test in tests]
        choices = Choices(fields)
        return any(
            choices.fit([tests[number] for number in rule])
            for rule in self._rules
            if all(possible[number] for number in rule)
        )

    @property
    def needs(self) -> Needs:
        """What an event needs at least to pass."""
        ways = [
            tuple(each for number in rule for each in self._tests[number].needs(self._names[self._tests[number].field]))
            for rule in self._rules
        ]
        return ways[0] if len(ways) == 1 else any_of(ways)

    def explain(self, event: str | bytes | Mapping[str, Any], pointer: str = "") -> Explanation:
        """Why an event passes, or does not, field by field; with `$or`, for each combination of its branches.

        `pointer` is where the pattern itself stands. Raises `DecodeError`.
        """
        fields = self._fields_of(event)
        ways = []
        for rule in self._rules[:_MOST_WAYS_EXPLAINED]:
            tests = [self._tests[number] for number in rule]
            parts = tuple(test.explain(self._names[test.field], fields, pointer) for test in tests)
            passed = Choices(fields).fit(tests)
            clause = "every field"
            if not passed and all(part.passed for part in parts):
                clause = "every field, in one and the same element of each array"
            ways.append(Explanation(pointer=pointer, clause=clause, passed=passed, parts=parts))
        if len(ways) == 1:
            return ways[0]
        return Explanation(
            pointer=pointer, clause="one of the branches of $or", passed=self.matches(event), parts=tuple(ways)
        )

    def _fields_of(self, event: str | bytes | Mapping[str, Any]) -> Fields:
        fields = Fields(len(self._names))
        fields.collect(read_event(event), self._steps)
        return fields

    def __repr__(self) -> str:
        return f"EventPattern({self._source!r})"
