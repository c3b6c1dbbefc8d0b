"""Schemas as plain functions that say whether a document satisfies them, and nothing else.

They take a quarter of the time of `jsonschema`, a few microseconds for a small body. They know the keywords that most
of our own schemas use, and agree with `jsonschema` in each; `validator.py` asks it about every document that they do
not accept, so refusals are in its words. A schema with another keyword, or a document that they are not sure of, is
left to it altogether.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from headrace.schemas.errors import HeadraceError

Check = Callable[[Any], bool]
"""Whether a document satisfies a schema. Raises `Unsure`."""


class Unsure(HeadraceError):
    """Raised when only `jsonschema` can say; never leaves this folder."""

    code = "SchemaUnsure"


_ANNOTATIONS: Final = frozenset(
    ("$schema", "$id", "$comment", "title", "description", "default", "examples", "contentEncoding", "x-allowed")
)
_APPLIED_WITH: Final = frozenset(("then", "else"))
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch


def check_of(
    schema: Mapping[str, Any], *, find: Callable[[str], Mapping[str, Any]], fits: Callable[[object, str], bool]
) -> Check:
    """The check of a schema. `find` gives the schema of a `$ref`, `fits` says whether a value has a format.

    Raises `Unsure` for a schema with a keyword that is not known here.
    """
    return _Maker(find, fits).make(schema)


class _Maker:
    def __init__(self, find: Callable[[str], Mapping[str, Any]], fits: Callable[[object, str], bool]) -> None:
        self._find = find
        self._fits = fits
        self._named: dict[str, Check | None] = {}

    def make(self, schema: Mapping[str, Any] | bool) -> Check:
        if isinstance(schema, bool):
            return lambda _: schema
        checks = [
            self._of(keyword, wanted, schema)
            for keyword, wanted in schema.items()
            if keyword not in _ANNOTATIONS and keyword not in _APPLIED_WITH
        ]
        return checks[0] if len(checks) == 1 else _all_of(checks)

    def _of(self, keyword: str, wanted: Any, schema: Mapping[str, Any]) -> Check:  # noqa: PLR0911  # one for each
        match keyword:
            case "type":
                return _type(wanted)
            case "properties":
                return self._properties(wanted)
            case "additionalProperties":
                return self._others(schema)
            case "propertyNames":
                check = self.make(wanted)
                return lambda value: not isinstance(value, dict) or all(map(check, value))
            case "items" if "prefixItems" not in schema:
                check = self.make(wanted)
                return lambda value: not isinstance(value, list) or all(map(check, value))
            case "anyOf":
                checks = [self.make(each) for each in wanted]
                return lambda value: any(check(value) for check in checks)
            case "oneOf":
                checks = [self.make(each) for each in wanted]
                return lambda value: sum(check(value) for check in checks) == 1
            case "not":
                check = self.make(wanted)
                return lambda value: not check(value)
            case "if":
                return self._if(schema)
            case "$ref":
                return self._reference(wanted)
            case "format":
                return _is_uuid if wanted == "uuid" else lambda value: self._fits(value, wanted)
            case _:
                return _simple(keyword, wanted)

    def _properties(self, wanted: Mapping[str, Any]) -> Check:
        checks = {name: self.make(each) for name, each in wanted.items()}

        def check(value: Any) -> bool:
            if isinstance(value, dict):
                for name, each in value.items():
                    if name in checks and not checks[name](each):
                        return False
            return True

        return check

    def _others(self, schema: Mapping[str, Any]) -> Check:
        if "patternProperties" in schema:
            raise Unsure
        known, check = frozenset(schema.get("properties", ())), self.make(schema["additionalProperties"])
        return lambda value: (
            not isinstance(value, dict) or all(check(each) for name, each in value.items() if name not in known)
        )

    def _if(self, schema: Mapping[str, Any]) -> Check:
        condition = self.make(schema["if"])
        then, otherwise = self.make(schema.get("then", True)), self.make(schema.get("else", True))
        return lambda value: then(value) if condition(value) else otherwise(value)

    def _reference(self, name: str) -> Check:
        if name not in self._named:
            if name.startswith("#"):
                raise Unsure
            # A schema may refer to itself by way of others.
            self._named[name] = None
            self._named[name] = self.make(self._find(name))
        return lambda value: self._check_named(name, value)

    def _check_named(self, name: str, value: Any) -> bool:
        check = self._named[name]
        if check is None:
            raise Unsure
        return check(value)


def _all_of(checks: Collection[Check]) -> Check:
    def check(value: Any) -> bool:
        # A loop, for `all` makes a generator, which costs as much as the checks.
        for each in checks:  # noqa: SIM110 - as said above
            if not each(value):
                return False
        return True

    return check


def _simple(keyword: str, wanted: Any) -> Check:  # noqa: PLR0911, PLR0912  # one for each keyword
    match keyword:
        case "required":
            names = tuple(wanted)
            return lambda value: not isinstance(value, dict) or all(name in value for name in names)
        case "enum":
            return _one_of(wanted)
        case "const":
            return _one_of([wanted])
        case "minLength":
            return lambda value: not isinstance(value, str) or len(value) >= wanted
        case "maxLength":
            return lambda value: not isinstance(value, str) or len(value) <= wanted
        case "pattern":
            search = re.compile(wanted).search
            return lambda value: not isinstance(value, str) or search(value) is not None
        case "minItems":
            return lambda value: not isinstance(value, list) or len(value) >= wanted
        case "maxItems":
            return lambda value: not isinstance(value, list) or len(value) <= wanted
        case "minProperties":
            return lambda value: not isinstance(value, dict) or len(value) >= wanted
        case "maxProperties":
            return lambda value: not isinstance(value, dict) or len(value) <= wanted
        case "minimum":
            return lambda value: not _is_number(value) or not value < wanted
        case "maximum":
            return lambda value: not _is_number(value) or not value > wanted
        case "exclusiveMinimum":
            return lambda value: not _is_number(value) or not value <= wanted
        case "exclusiveMaximum":
            return lambda value: not _is_number(value) or not value >= wanted
        case "uniqueItems" if wanted is True:
            return _are_unique
        case _:
            raise Unsure


def _is_uuid(value: Any) -> bool:
    return not isinstance(value, str) or _UUID(value) is not None


def _type(wanted: str | Collection[str]) -> Check:
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    checks = [_TYPES[name] for name in names]
    return checks[0] if len(checks) == 1 else lambda value: any(check(value) for check in checks)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return _is_number(value) and (isinstance(value, int) or value.is_integer())


_TYPES: Final[Mapping[str, Check]] = {
    "string": lambda value: isinstance(value, str),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": _is_number,
    "integer": _is_integer,
}


def _one_of(values: Collection[Any]) -> Check:
    if not all(value is None or isinstance(value, str) for value in values):
        raise Unsure  # 1, 1.0 and true are a matter of their own
    allowed = frozenset(values)
    return lambda value: (value is None or isinstance(value, str)) and value in allowed


def _are_unique(value: Any) -> bool:
    if not isinstance(value, list):
        return True
    if not all(isinstance(each, str) for each in value):
        raise Unsure
    return len(set(value)) == len(value)
