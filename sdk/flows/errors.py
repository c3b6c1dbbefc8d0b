"""Errors of flows on one's own machine.

HeadraceError
└── FlowError                  something about a flow, its run, or a provider that it calls
    ├── DefinitionInvalid      a definition, its input or its input schema cannot be used; names every place
    ├── PathInvalid            a path is not written as paths are
    ├── PathMissing            a path leads nowhere in this document
    ├── ExpressionInvalid      an expression cannot be read, or uses what expressions have not
    ├── ExpressionFailed       an expression has no value for these names, or goes over a limit
    ├── StateFailed            a state of the flow raised an exception, which `Catch` may name
    ├── ProviderRefused        an action provider answered with an error
    ├── ProviderUnreachable    an action provider did not answer
    ├── TokenMissing           there is no token for a provider
    └── RunLogUnusable         a run log cannot be written, read, or continued
"""

from __future__ import annotations

from typing import Any

from headrace.schemas import HeadraceError
from headrace.sdk.flows.problems import Problem

__all__ = [
    "FlowError",
    # What is written
    "DefinitionInvalid",
    "PathInvalid",
    "PathMissing",
    "ExpressionInvalid",
    "ExpressionFailed",
    # What happens in a run
    "StateFailed",
    "ProviderRefused",
    "ProviderUnreachable",
    "TokenMissing",
    "RunLogUnusable",
]


class FlowError(HeadraceError):
    """Raised when something about a flow, its run, or a provider that it calls is wrong."""

    code = "FlowError"


class DefinitionInvalid(FlowError):
    """Raised when a definition, its input or its input schema cannot be used; `problems` names every place."""

    code = "DefinitionInvalid"

    def __init__(self, name: str, problems: tuple[Problem, ...]) -> None:
        self.name = name
        self.problems = problems
        lines = "".join(f"\n  {problem.sentence()}" for problem in problems)
        super().__init__(f"{name} cannot be used:{lines}")


class PathInvalid(FlowError):
    """Raised when a path is not written as paths are."""

    code = "PathInvalid"


class PathMissing(FlowError):
    """Raised when a path leads nowhere in this document."""

    code = "PathMissing"


class ExpressionInvalid(FlowError):
    """Raised when an expression cannot be read, or uses what expressions have not."""

    code = "ExpressionInvalid"


class ExpressionFailed(FlowError):
    """Raised when an expression has no value for these names, or goes over a limit."""

    code = "ExpressionFailed"


class StateFailed(FlowError):
    """Raised when a state of the flow raised an exception, which `Catch` may name.

    `name` is what `ErrorEquals` compares, `cause` a sentence or what the provider said, and `more` what else stands in
    the exception's document.
    """

    code = "StateFailed"

    def __init__(self, name: str, cause: Any, more: dict[str, Any] | None = None) -> None:
        self.name = name
        self.cause = cause
        self.more = more or {}
        super().__init__(f"{name}: {cause}")

    def document(self, state_name: str) -> dict[str, Any]:
        """What `Catch` puts into the state, and what a failed run says."""
        return {**self.more, "state_name": state_name, "exception": self.name, "cause": self.cause}


class ProviderRefused(FlowError):
    """Raised when an action provider answered with an error: `status` is HTTP's, `body` what it said, `retry_after`
    its header of that name."""

    code = "ProviderRefused"

    def __init__(self, message: str, *, status: int, body: Any, retry_after: str = "") -> None:
        self.status = status
        self.body = body
        self.retry_after = retry_after
        super().__init__(message)


class ProviderUnreachable(FlowError):
    """Raised when an action provider did not answer."""

    code = "ProviderUnreachable"


class TokenMissing(FlowError):
    """Raised when there is no token for a provider."""

    code = "TokenMissing"


class RunLogUnusable(FlowError):
    """Raised when a run log cannot be written, read, or continued."""

    code = "RunLogUnusable"
