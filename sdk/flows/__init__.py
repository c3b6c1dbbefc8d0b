"""Flows of the Globus Flows service on one's own machine: `Flow` checks a definition, `run` runs it.

done = run(Flow.read("definition.json"), {"n": 3}, log="run.jsonl")
done.status, done.output
"""

from headrace.sdk.flows.actions import Attendant, Pace
from headrace.sdk.flows.cancellation import Cancellation, Wish
from headrace.sdk.flows.documents import Written, read_file
from headrace.sdk.flows.errors import (
    DefinitionInvalid,
    ExpressionFailed,
    ExpressionInvalid,
    FlowError,
    PathInvalid,
    PathMissing,
    ProviderRefused,
    ProviderUnreachable,
    RunLogUnusable,
    StateFailed,
    TokenMissing,
)
from headrace.sdk.flows.flow import Flow
from headrace.sdk.flows.problems import Problem, Severity
from headrace.sdk.flows.run_log import Entry, read_log
from headrace.sdk.flows.runner import Run
from headrace.sdk.flows.running import Circumstances, RunOptions, missing_tokens, resume, run
from headrace.sdk.flows.tokens import Tokens, read_tokens
from headrace.sdk.flows.validation import names_given, problems_of, problems_of_input

__all__ = [
    # A definition
    "Flow",
    "Problem",
    "Severity",
    "Written",
    "read_file",
    "problems_of",
    "problems_of_input",
    "names_given",
    # A run
    "run",
    "resume",
    "read_log",
    "Run",
    "RunOptions",
    "Circumstances",
    "missing_tokens",
    # What a run meets
    "Tokens",
    "read_tokens",
    "Pace",
    "Attendant",
    "Entry",
    "Cancellation",
    "Wish",
    # What can go wrong
    "FlowError",
    "DefinitionInvalid",
    "PathInvalid",
    "PathMissing",
    "ExpressionInvalid",
    "ExpressionFailed",
    "StateFailed",
    "ProviderRefused",
    "ProviderUnreachable",
    "TokenMissing",
    "RunLogUnusable",
]
