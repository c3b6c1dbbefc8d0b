"""The parts of the hot path alone, without any server: `python -m benchmarks.micro [--only NAME] [--json]`.

Each number is the best of several repetitions: what the code costs when nothing else is in the way.
"""

from __future__ import annotations

import argparse
import json
import os
import timeit
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID, uuid4

from rich.console import Console
from rich.table import Table

from headrace.bus.data import values
from headrace.bus.data.arguments import decode_arguments, encode_arguments
from headrace.bus.data.encodings import ENCODING_NAMES, MSGPACK
from headrace.bus.functions.code import FunctionCode, from_source
from headrace.bus.tasks.bundles import (
    Bundle,
    FunctionUse,
    ResultPart,
    Runtime,
    Task,
    TaskOptions,
    TaskResult,
    decode_bundle,
    decode_part,
    encode_bundle,
    encode_part,
)
from headrace.endpoint.agent.turns import Turns
from headrace.endpoint.engines.engine import Call
from headrace.sdk.future import TaskFuture
from headrace.sdk.outbox import Draft, NewTask, Outbox

_REPETITIONS = 7
_REPETITION_S = 0.03
_SUBJECT = "task.0d1c0a6e7d018f6c1d3e5f0b4c559b7e.default.urn-user-ada.8f6c1d3e5f0b4c559b7e0d1c0a6e7d01.x"
_KEY = b"k" * 32
_EXPIRES = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to time. `work` does `items` of it at once; `nbytes` is how much data one item moves."""

    group: str
    name: str
    work: Callable[[], object]
    items: int = 1
    nbytes: int = 0


def cases() -> Iterator[Case]:
    """All cases, in the order of the path of a task."""
    yield from _values()
    yield from _outbox()
    yield from _bundles()
    yield from _turns()
    yield from _parts()


def time_ns(case: Case) -> float:
    """The best time for one item, in nanoseconds."""
    timer = timeit.Timer(case.work)
    number = max(1, int(_REPETITION_S / timer.timeit(1)))
    return 1e9 * min(timer.repeat(_REPETITIONS, number)) / number / case.items


def _values() -> Iterator[Case]:
    shapes: dict[str, tuple[object, ...]] = {
        "no arguments": (),
        "three scalars": (1, "two", 3.0),
        "a tuple": ((1, 2),),
        "10 KB of bytes": (os.urandom(10 * 1024),),
        "1 MB of bytes": (os.urandom(1024 * 1024),),
        "1 000 floats": ([0.5 * place for place in range(1000)],),
        "100 records": ([{"day": place, "wind": 0.5, "kind": "rain"} for place in range(100)],),
        "a lambda": (lambda x: x,),
    }
    for name, args in shapes.items():
        encoding, data = encode_arguments(args, {})
        form, size = ENCODING_NAMES[encoding], len(data)
        encode, decode = partial(encode_arguments, args, {}), partial(decode_arguments, encoding, data)
        yield Case("values", f"encode {name} ({form})", encode, nbytes=size)
        yield Case("values", f"decode {name} ({form})", decode, nbytes=size)


def _outbox() -> Iterator[Case]:
    count = 1000
    use, options, endpoint = FunctionUse(uuid4(), b"g" * 32, _EXPIRES), TaskOptions(), uuid4()
    encoding, data = encode_arguments((1,), {})

    def through() -> None:
        sent: list[Draft] = []
        outbox = Outbox(endpoint, send=sent.append, wake=lambda: None)
        for _ in range(8):
            outbox.learn(1e-6)
        for _ in range(count):
            outbox.add(NewTask(use, options, encoding, data, TaskFuture()))
        outbox.pump()
        while sent:
            outbox.sent(sent.pop())

    yield Case("outbox", "add, cut into bundles, send", through, items=count)
    yield Case("outbox", "of that, making the future", lambda: [TaskFuture() for _ in range(count)], items=count)


def _bundles() -> Iterator[Case]:
    for count, size in ((1, 0), (32, 0), (128, 0), (25, 10 * 1024), (1, 1024 * 1024)):
        bundle = _bundle(count, os.urandom(size))
        encode = partial(encode_bundle, bundle, subject=_SUBJECT, key=_KEY, key_expires=_EXPIRES)
        yield from _message_cases(
            "bundle", count, size, encode, partial(decode_bundle, encode(), subject=_SUBJECT, key=_KEY)
        )


def _turns() -> Iterator[Case]:
    count = 1000
    code = from_source("def f():\n    return 1\n", "f")
    for principals in (1, 100):
        calls = [_call(code) for _ in range(count)]
        groups = [UUID(int=place) for place in range(principals)]
        names = [f"urn:headrace:user:{place}" for place in range(principals)]

        def through(calls: list[Call] = calls, groups: list[UUID] = groups, names: list[str] = names) -> None:
            turns = Turns()
            for place, call in enumerate(calls):
                turns.put(names[place % len(names)], groups[place % len(groups)], call)
            while turns.take() is not None:
                pass

        yield Case("turns", f"put and take, {_plural(principals, 'principal')}", through, items=count)


def _parts() -> Iterator[Case]:
    for count, size in ((1, 0), (128, 0), (1, 1024 * 1024)):
        encode = partial(encode_part, _part(count, os.urandom(size)), subject=_SUBJECT, key=_KEY)
        yield from _message_cases(
            "result part", count, size, encode, partial(decode_part, encode(), subject=_SUBJECT, key=_KEY)
        )


def _message_cases(
    group: str, count: int, size: int, encode: Callable[[], bytes], decode: Callable[[], object]
) -> Iterator[Case]:
    name, nbytes = f"{count} x {_size(size)}, per task", len(encode()) // count
    yield Case(group, f"encode and sign {name}", encode, items=count, nbytes=nbytes)
    yield Case(group, f"check and decode {name}", decode, items=count, nbytes=nbytes)


def _bundle(count: int, argument: bytes) -> Bundle:
    encoding, data = encode_arguments((argument,) if argument else (), {})
    return Bundle(
        result_key=b"r" * 32,
        functions=[FunctionUse(uuid4(), b"g" * 32, _EXPIRES)],
        options=[TaskOptions()],
        tasks=[Task(place, 0, 0, encoding, data) for place in range(count)],
        runtime=Runtime("3.11.7", "0.1.0", "host", "Linux"),
    )


def _part(count: int, value: bytes) -> ResultPart:
    encoding, data = values.encode(value or None)
    results = [
        TaskResult(place, "succeeded", encoding, data, 1.5e9, 1.5e9, 1.5e9, worker="host/1234")
        for place in range(count)
    ]
    return ResultPart(results=results, total=count, runtime=Runtime("3.11.7", "0.1.0", "host", "Linux"))


def _call(code: FunctionCode) -> Call:
    return Call(key=uuid4(), function=uuid4(), encoding=MSGPACK, arguments=b"", options=TaskOptions(), code=code)


def _size(size: int) -> str:
    for unit, factor in (("MB", 1024 * 1024), ("KB", 1024)):
        if size >= factor:
            return f"{size // factor} {unit}"
    return "nothing" if not size else f"{size} B"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description="Time the parts of the hot path.")
    parser.add_argument("--only", metavar="GROUP", help="values, outbox, bundle, turns or result part")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    options = parser.parse_args(arguments)
    taken = [(case, time_ns(case)) for case in cases() if options.only in (None, case.group)]
    if options.json:
        print(
            json.dumps([{"group": case.group, "name": case.name, "ns": round(ns, 1)} for case, ns in taken], indent=1)
        )
        return
    table = Table(title="Best times, one core", title_justify="left")
    table.add_column("part")
    table.add_column("work")
    table.add_column("µs", justify="right")
    table.add_column("MB/s", justify="right")
    group = ""
    for case, ns in taken:
        if case.group != group and group:
            table.add_section()
        rate = f"{case.nbytes / ns * 1e3:,.0f}" if case.nbytes >= 1024 else ""
        table.add_row(case.group if case.group != group else "", case.name, f"{ns / 1e3:,.2f}", rate)
        group = case.group
    Console().print(table)


if __name__ == "__main__":
    main()
