"""A subscription tried on one event before it is made: filter, endpoint, arguments, and the function's schema."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace.action_provider.errors import InvalidRequest, refused
from headrace.bus.errors import EndpointNotAllowed, InputFailed
from headrace.bus.eventing.events import CloudEvent
from headrace.bus.eventing.joins import COMPLETE_TYPE
from headrace.bus.eventing.subscriptions import CompiledSubscription
from headrace.bus.eventing.templates import Arguments
from headrace.bus.filters.samples import sample_for
from headrace.schemas import SchemaViolation, validate_given

_VARIADIC: Final = "x-variadic"
_POSITIONAL: Final = "x-positional"


@dataclass(frozen=True, slots=True)
class Trial:
    """What would become of the sample. `doubts` are what may be wrong: the sample was made, and others may do."""

    sample: CloudEvent | None
    made: bool
    arguments: Arguments | None
    endpoint: Any
    doubts: Sequence[str]

    def document(self) -> dict[str, Any]:
        """As answers show it."""
        arguments = self.arguments and {"args": self.arguments.args, "kwargs": self.arguments.kwargs}
        return {
            "sample": None if self.sample is None else self.sample.document,
            "sample_made": self.made,
            "arguments": arguments,
            "endpoint_id": self.endpoint,
            "doubts": list(self.doubts),
        }


async def tried(
    subscription: CompiledSubscription, schema: Mapping[str, Any] | None, given: Mapping[str, Any] | None
) -> Trial:
    """Try it on the event that was given, or on one that is made from the filter.

    Raises `InvalidRequest` for what cannot work: with any event, or with the one that was given.
    """
    check_shape(subscription.record.input, schema or {})
    if subscription.join is not None and given is None:
        return Trial(None, True, None, None, ["what is delivered is an event of several; give one as `sample`"])
    if given is None:
        sample = sample_for(subscription.filter)
        if sample is None:
            doubts = ["no event could be made from the filter to try it on; give one as `sample`"]
            return Trial(None, True, None, None, doubts)
    else:
        sample = _read(given)
        if subscription.join is not None:
            sample = _joined(subscription, sample)
        elif not subscription.filter.matches(sample):
            raise refused("/sample", "it does not pass the filter; `explain` says why")
    if subscription.record.target is not None:
        return Trial(sample, given is None, None, None, [])
    try:
        endpoint = subscription.places.first(sample) or subscription.record.endpoint_id
        arguments = await _arguments(subscription, schema or {}, sample)
    except InvalidRequest as problem:
        if given is not None:
            raise
        # It was made of what the filter names: real events have more.
        return Trial(sample, True, None, None, [f"with an event that has only what the filter names: {problem}"])
    return Trial(sample, given is None, arguments, endpoint, [])


def _joined(subscription: CompiledSubscription, sample: CloudEvent) -> CloudEvent:
    """A sample of what is delivered where events are joined."""
    own = {"source": subscription.record.joined_source, "type": COMPLETE_TYPE}
    return CloudEvent.of_valid({**sample.document, **own})


def check_shape(template: Any, schema: Mapping[str, Any]) -> None:
    """Check what holds for every event: how many arguments there are, and their names. Raises `InvalidRequest`."""
    document: Mapping[str, Any] = {"args": [None]} if template is None else template
    given = _by_name(document.get("args") or [], document.get("kwargs") or {}, schema)
    missing = [name for name in schema.get("required", ()) if name not in given]
    if missing:
        raise refused("/input", f"the function needs {missing[0]!r}, which is not given")
    if schema.get("additionalProperties") is False:
        unknown = [name for name in given if name not in schema.get("properties", {})]
        if unknown:
            raise refused(f"/input/kwargs/{unknown[0]}", f"the function takes no argument {unknown[0]!r}")


async def _arguments(subscription: CompiledSubscription, schema: Mapping[str, Any], sample: CloudEvent) -> Arguments:
    flow = subscription.record.flow
    try:
        if flow is not None and flow.batch is not None:
            arguments = subscription.input.render_batch([sample])
        else:
            arguments = subscription.input.render(sample)
        subscription.places.first(sample)
    except EndpointNotAllowed as error:
        raise refused("/endpoint", str(error)) from None
    except InputFailed as error:
        raise refused(f"/input{error.pointer}", str(error)) from None
    named = _by_name(arguments.args, arguments.kwargs, schema)
    try:
        await asyncio.to_thread(validate_given, dict(schema), named, name="input")
    except SchemaViolation as error:
        first = error.violations[0]
        raise refused("/input", f"the function's argument {first.pointer[1:]!r}: {first.problem}") from None
    return arguments


def _by_name(args: Sequence[Any], kwargs: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments under their names, as the function's schema knows them. Raises `InvalidRequest`."""
    properties, variadic = schema.get("properties"), schema.get(_VARIADIC)
    if not properties:
        return dict(kwargs)  # Nothing is known of the function.
    # Which ones are for names only is known where there is `*args`: all before that go by position.
    names = list(properties) if variadic is None else list(schema.get(_POSITIONAL, ()))
    more = list(args[len(names) :])
    if more and variadic is None:
        raise refused("/input/args", f"the function takes {len(names)} arguments, and {len(args)} are given")
    named = dict(zip(names, args, strict=False))
    doubled = [name for name in kwargs if name in named]
    if doubled:
        raise refused(f"/input/kwargs/{doubled[0]}", f"the argument {doubled[0]!r} is given by position as well")
    return {**named, **({variadic: more} if more and variadic is not None else {}), **kwargs}


def _read(given: Mapping[str, Any]) -> CloudEvent:
    try:
        return CloudEvent.of_document({"specversion": "1.0", "id": "sample", **given})
    except SchemaViolation as error:
        first = error.violations[0]
        raise refused(f"/sample{first.pointer}", first.problem) from None
