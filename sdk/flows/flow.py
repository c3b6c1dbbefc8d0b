"""A flow whose definition was read and checked."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headrace.sdk.flows.documents import Written, read_file, read_text
from headrace.sdk.flows.errors import DefinitionInvalid
from headrace.sdk.flows.problems import Problem, Severity
from headrace.sdk.flows.validation import problems_of, problems_of_input

_NAMESPACE: Final = uuid.UUID("5f0f3c1e-6d0b-4c43-9d6d-2f6f0a4a8f3b")


@dataclass(frozen=True, slots=True)
class Flow:
    """A definition that can run on this machine, and what may be doubted about it (`warnings`)."""

    definition: Mapping[str, Any]
    name: str = "the definition"
    warnings: tuple[Problem, ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> Flow:
        """A flow from a file of JSON or YAML. Raises `DefinitionInvalid`, which names every problem."""
        return cls.of(read_file(Path(path)))

    @classmethod
    def parse(cls, text: str) -> Flow:
        """A flow from a text of JSON or YAML. Raises `DefinitionInvalid`."""
        return cls.of(read_text(text, name="the definition"))

    @classmethod
    def of(cls, definition: Written | Mapping[str, Any]) -> Flow:
        """A flow from a document. Raises `DefinitionInvalid`."""
        written = definition if isinstance(definition, Written) else Written(dict(definition))
        problems = problems_of(written)
        wrong = tuple(problem for problem in problems if problem.severity is not Severity.WARNING)
        if wrong:
            raise DefinitionInvalid(written.name, wrong)
        return cls(written.value, written.name, tuple(problem for problem in problems if problem not in wrong))

    @property
    def flow_id(self) -> str:
        """An id that is the same for the same definition."""
        text = json.dumps(self.definition, sort_keys=True, separators=(",", ":"))
        return str(uuid.uuid5(_NAMESPACE, hashlib.sha256(text.encode()).hexdigest()))

    @property
    def states(self) -> Mapping[str, Mapping[str, Any]]:
        """The states by their names."""
        found: Mapping[str, Mapping[str, Any]] = self.definition["States"]
        return found

    def check_input(self, value: Any, input_schema: Written | None) -> None:
        """Raises `DefinitionInvalid` when the input is no object, or does not satisfy its schema."""
        if not isinstance(value, dict):
            raise DefinitionInvalid("the input", (Problem(pointer="", problem="the input of a flow is an object"),))
        problems = problems_of_input(input_schema, value, given=True) if input_schema else ()
        if problems:
            raise DefinitionInvalid("the input", problems)


def provider_of(state: Mapping[str, Any]) -> tuple[str, str | None]:
    """The URL of an Action state's provider, and the scope of its token, if it names one."""
    handler = state.get("Handler")
    if isinstance(handler, dict):
        return str(handler["Url"]), handler.get("Scope")
    return str(state["ActionUrl"]), state.get("ActionScope")
