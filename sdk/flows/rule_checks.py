"""Checks of a Choice state and its rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.sdk.flows.choices import COMBINED, TESTS
from headrace.sdk.flows.field_checks import Found, Place, described, error, path, target, unknown


def choice(place: Place, state: Mapping[str, Any], names: Sequence[str]) -> Found:
    """The rules of a Choice, and where they lead."""
    yield from target((*place, "Default"), state.get("Default"), names)
    rules = state.get("Choices")
    for number, rule in enumerate(rules if isinstance(rules, list) else ()):
        if isinstance(rule, dict):
            below = (*place, "Choices", number)
            if "Next" not in rule:
                yield error(below, "'Next' is missing: it says which state follows when the rule is true")
            yield from target((*below, "Next"), rule.get("Next"), names)
            yield from _rule(below, rule, outermost=True)


def _rule(place: Place, rule: Mapping[str, Any], *, outermost: bool) -> Found:
    yield from unknown(place, rule, described()["$defs"]["rule"]["properties"])
    if not outermost and "Next" in rule:
        yield error((*place, "Next"), "'Next' stands in the outermost rule only")
    combined = [name for name in COMBINED if name in rule]
    tests = [name for name in TESTS if name in rule]
    if combined and (len(combined) > 1 or tests or "Variable" in rule):
        yield error(place, "a rule is one of 'And', 'Or', 'Not', or a 'Variable' with one test")
    elif not combined and "Variable" not in rule:
        yield error(place, "there is no 'Variable' to test, and neither 'And', 'Or' nor 'Not'")
    elif not combined and len(tests) != 1:
        told = f"there are {len(tests)}: {', '.join(tests)}; use 'And'" if tests else "there is none"
        yield error(place, f"a 'Variable' has exactly one test, and {told}")
    for name in tests:
        if name.endswith("Path"):
            yield from path((*place, name), rule[name])
    yield from path((*place, "Variable"), rule.get("Variable"))
    for name in combined:
        below = rule[name] if isinstance(rule[name], list) else [rule[name]]
        for number, each in enumerate(below):
            if isinstance(each, dict):
                inner: Place = (*place, name) if name == "Not" else (*place, name, number)
                yield from _rule(inner, each, outermost=False)
