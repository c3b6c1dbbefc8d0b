"""Who is whom on this machine: the file that `identity_mapping_config_path` names, in the form of Globus Compute's.

    [{"DATA_TYPE": "expression_identity_mapping#1.0.0",
      "mappings": [{"source": "{username}", "match": "(.*)@example\\.org", "output": "{0}"}]}]

`source` is filled with what is known of the principal: `{username}`, `{email}`, `{id}` and `{urn}`. `match` is a
regular expression for all of it (`literal`: a plain text), `output` is the local user's name, with the groups of the
match in it. The first mapping that matches counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from headrace.endpoint.errors import ConfigInvalid, IdentityUnmapped
from headrace.schemas import SchemaViolation, validate

_USER: Final = "urn:headrace:user:"
_GLOBUS: Final = "urn:globus:auth:identity:"
_FIELD: Final = re.compile(r"\{([a-z_]+)\}")
_GROUP: Final = re.compile(r"\{(\d+)\}")
_FIELDS: Final = ("username", "email", "id", "urn")
_LONGEST: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """One mapping."""

    source: str
    match: re.Pattern[str]
    output: str

    def map(self, identity: Mapping[str, str]) -> str | None:
        """The local user's name, or None when this mapping does not match, or asks for what is not known."""
        if any(name not in identity for name in _FIELD.findall(self.source)):
            return None
        found = self.match.fullmatch(_FIELD.sub(lambda field: identity[field[1]], self.source))
        if found is None:
            return None
        groups = found.groups(default="")
        return _GROUP.sub(lambda group: groups[int(group[1])], self.output)


@dataclass(frozen=True, slots=True)
class IdentityMapping:
    """All mappings of a file, in order."""

    expressions: tuple[Expression, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file. Raises `ConfigInvalid`, naming file and place."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigInvalid(f"{path} cannot be read: {error}") from error
        return cls.parse(text, name=str(path))

    @classmethod
    def parse(cls, text: str, *, name: str) -> Self:
        """Read a text. Raises `ConfigInvalid`, naming the place."""
        try:
            document: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigInvalid(f"{name}, line {error.lineno}, column {error.colno}: {error.msg}") from error
        documents = document if isinstance(document, list) else [document]
        for place, each in enumerate(documents):
            if isinstance(each, dict) and str(each.get("DATA_TYPE", "")).startswith("external_identity_mapping#"):
                raise ConfigInvalid(
                    f"{name}: /{place}: external programs are not asked here; write the mapping as"
                    " expression_identity_mapping#1.0.0"
                )
        try:
            validate("identity-mapping", documents)
        except SchemaViolation as error:
            raise ConfigInvalid(
                "\n".join(f"{name}: {each.pointer or '/'}: {each.problem}" for each in error.violations)
            ) from error
        return cls(
            tuple(
                _expression(mapping, f"{name}: /{place}/mappings/{number}")
                for place, each in enumerate(documents)
                for number, mapping in enumerate(each["mappings"])
            )
        )

    def local_name(self, principal: str, accounts: Mapping[str, str] | None = None) -> str:
        """The name of the local user for a principal. Raises `IdentityUnmapped`.

        `accounts` are the user names of all accounts of theirs, by URNs; the principal's own is tried first.
        """
        known = accounts or {}
        for urn in dict.fromkeys((principal, *known)):
            identity = identity_of(urn, known.get(urn, ""))
            for each in self.expressions:
                name = each.map(identity)
                if name:
                    return name
        raise IdentityUnmapped(
            f"{principal} is no local user of this endpoint's machine: its administrator's identity mapping has nothing"
            " that matches"
        )


def identity_of(principal: str, username: str = "") -> dict[str, str]:
    """What is known of a principal, by the names that `source` may use; `username` is that at another system."""
    known = {"urn": principal, "id": principal.rpartition(":")[2]}
    if len(principal) > _LONGEST:
        return {}
    if principal.startswith(_USER):
        known["username"] = principal.removeprefix(_USER)
    elif username and len(username) <= _LONGEST:
        known["username"] = username
    if "@" in known.get("username", ""):
        known["email"] = known["username"]
    if principal.startswith(_GLOBUS):
        known["id"] = principal.removeprefix(_GLOBUS)
    return known


def _expression(mapping: Mapping[str, Any], where: str) -> Expression:
    for name in _FIELD.findall(mapping["source"]):
        if name not in _FIELDS:
            raise ConfigInvalid(f"{where}/source: {{{name}}} is not known here; there are {', '.join(_FIELDS)}")
    match = mapping["match"]
    if not mapping.get("literal", False):
        # The whole text must match anyway: as in Globus Compute, ^ and $ are not needed; at the ends they do no harm.
        match = match.removeprefix("^")
        match = match.removesuffix("$") if not match.endswith("\\$") else match
    else:
        match = re.escape(match)
    try:
        pattern = re.compile(match, re.IGNORECASE if mapping.get("ignore_case", False) else 0)
    except re.error as error:
        raise ConfigInvalid(f"{where}/match: {mapping['match']!r} is not a regular expression: {error}") from error
    wanted = max((int(number) for number in _GROUP.findall(mapping["output"])), default=-1)
    if wanted >= pattern.groups:
        raise ConfigInvalid(
            f"{where}/output: {{{wanted}}} asks for group {wanted + 1} of the match, which has {pattern.groups}"
        )
    return Expression(source=mapping["source"], match=pattern, output=mapping["output"])
