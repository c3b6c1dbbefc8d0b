"""A place on another machine: a process engine inside a Dask worker, or inside one of the processes that Parsl starts.

So a call has a process of its own there as well: it can be stopped, its crash is told of, and what it prints is kept.
The host ends with the process that it is in, and the calls' processes end with it.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from uuid import UUID

import msgspec

from headrace.bus.data.encodings import INLINE_BYTES, OBJECT
from headrace.bus.data.failures import RAISED, decode_failure, encode_failure, of_error
from headrace.bus.errors import EnvironmentUnusable, ObjectMissing, TaskError
from headrace.endpoint.engines.containers.runtimes import Container
from headrace.endpoint.engines.engine import Call, FinalState, Outcome
from headrace.endpoint.engines.grids.control import Listener
from headrace.endpoint.engines.grids.grid import Ending, OnPrinted, Piece
from headrace.endpoint.engines.grids.loops import LoopHere, LoopThread, PlaceLoop
from headrace.endpoint.engines.grids.open_mpi import adapted
from headrace.endpoint.engines.grids.orders import Boxed, Order, Parcel, Terms, encode, read_parcel, read_terms
from headrace.endpoint.engines.grids.printout import Printout
from headrace.endpoint.engines.processes.endings import cancelled
from headrace.endpoint.engines.processes.engine import ProcessEngine
from headrace.endpoint.engines.processes.output import PRINTED_LIMIT
from headrace.endpoint.worker.limits import WorkerLimits, worker_environment
from headrace.endpoint.worker.sandbox import SandboxRoot

_MOST_REVOKED = 10_000
_CONNECT_S = 0.25
"""How long the first call may wait for the pool's control connection."""

Reply = bytes
"""Encoded endings, in the order of the calls."""

_Waiter = asyncio.Future[tuple[Outcome, list[Piece]]]
"""Waits for a call's outcome, and all that it has printed."""


class Host:
    """Runs the calls of one pool, `workers` at a time, for threads that wait for them.

    What running calls print is given to `tell`, in the host's loop, or told over the pool's control connection.
    """

    def __init__(self, terms: Terms, loop: PlaceLoop, *, workers: int, tell: OnPrinted | None = None) -> None:
        self._terms = terms
        self._node = socket.gethostname()
        self._workers = workers
        self._calls: collections.deque[Call] = collections.deque()
        self._waiting: dict[UUID, _Waiter] = {}
        self._printed = Printout(self._is_running, tell)
        self._revoked: collections.OrderedDict[UUID, None] = collections.OrderedDict()
        self._spool = _visible_spool(terms)
        self._lacks_python = os.path.isabs(terms.python) and terms.container is None and not Path(terms.python).exists()
        self._loop = loop
        self._directory = Path(tempfile.mkdtemp(prefix="headrace-")) if terms.container is not None else None
        self._engine = self._new_engine()
        self._listener: Listener | None = None
        self._loop.run(self._start())

    def run(self, parcel: Parcel) -> list[Ending]:
        """Run calls and wait until all have ended."""
        return self._loop.run(self._run(parcel))

    def _call(self, order: Order, parcel: Parcel) -> Call:
        options = msgspec.structs.replace(order.options, max_retries=0) if order.options.max_retries else order.options
        if self._terms.is_mpi:
            options = msgspec.structs.replace(options, resource_specification=b"")
        return Call(
            key=UUID(bytes=order.key),
            function=UUID(bytes=order.function),
            encoding=order.encoding,
            arguments=order.arguments,
            options=options,
            code=parcel.codes[order.code],
        )

    def _ending(self, order: Order, outcome: Outcome, printed: list[Piece]) -> Ending:
        may_retry = order.options.max_retries > 0 and outcome.state == "failed"
        return Ending(
            state=outcome.state,
            encoding=outcome.encoding,
            value=outcome.value,
            started_at=outcome.started_at,
            ended_at=outcome.ended_at,
            attempts=outcome.attempts,
            worker=outcome.worker,
            log_end=outcome.log_end,
            printed=printed,
            raised=may_retry and decode_failure(outcome.value).code == RAISED,
        )

    def kill(self, keys: Iterable[UUID]) -> None:
        """Cancel calls, also those that come later."""
        self._loop.call(self._kill, list(keys))

    def close(self) -> None:
        """End all that runs."""
        self._loop.run(self._stop())
        self._loop.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    # In the event loop

    async def _start(self) -> None:
        await self._engine.start()
        if self._terms.control is not None:
            self._listener = Listener(self._terms.control, self._kill)
            self._listener.start()
            self._printed.tell = self._listener.tell
            await self._listener.wait_until_connected(_CONNECT_S)

    async def _run(self, parcel: Parcel) -> list[Ending]:
        # Where the loop has stood still: first a worker's end is seen, and that a call is to be cancelled.
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        waiters: list[_Waiter] = [loop.create_future() for _ in parcel.orders]
        orders = list(zip(parcel.orders, waiters, strict=True))
        self._add([(self._call(order, parcel), waiter, order.attempts) for order, waiter in orders])
        return [self._ending(order, *await waiter) for order, waiter in orders]

    async def _stop(self) -> None:
        if self._listener is not None:
            await self._listener.close()
        await self._engine.stop(grace_s=0)

    def _is_running(self, key: UUID) -> bool:
        return key in self._waiting

    def next_call(self) -> Call | None:
        """For the engine."""
        return self._calls.popleft() if self._calls else None

    def _add(self, calls: list[tuple[Call, _Waiter, int]]) -> None:
        for call, waiter, attempts in calls:
            self._waiting[call.key] = waiter
            self._printed.expect(call.key, attempts)
            if call.key in self._revoked:
                self._refuse(call.key, "cancelled", cancelled())
            elif call.encoding == OBJECT and self._spool is None:
                self._refuse(call.key, "failed", ObjectMissing(_NOT_SHARED.format(self._terms.spool)))
            elif self._lacks_python:
                self._refuse(call.key, "failed", EnvironmentUnusable(_NO_PYTHON.format(self._terms.python, self._node)))
            else:
                self._calls.append(call)
        self._engine.wake()

    def _kill(self, keys: list[UUID]) -> None:
        for key in keys:
            self._revoked[key] = None
            while len(self._revoked) > _MOST_REVOKED:
                self._revoked.popitem(last=False)
        for call in [call for call in self._calls if call.key in keys]:
            self._calls.remove(call)
            self._refuse(call.key, "cancelled", cancelled())
        self._engine.cancel(keys, force=True)

    def _refuse(self, key: UUID, state: FinalState, error: TaskError) -> None:
        encoding, value = encode_failure(of_error(error))
        now = time.time()
        outcome = Outcome(
            key=key, state=state, encoding=encoding, value=value, started_at=now, ended_at=now, attempts=0
        )
        self._on_outcomes([outcome])

    def _on_outcomes(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            waiter = self._waiting.pop(outcome.key, None)
            if waiter is not None and not waiter.done():
                waiter.set_result((outcome, self._printed.take(outcome.key)))

    def _new_engine(self) -> ProcessEngine:
        terms = self._terms
        limits = WorkerLimits.of_argument(terms.limits)
        container = None
        if terms.container is not None and self._directory is not None:
            container = _container(terms.container, self._directory, self._spool)
            if container.kind == "custom":
                self._spool = None  # its command names one directory only
            if limits.sandboxes is not None:
                limits = dataclasses.replace(limits, sandboxes=str(self._directory / "sandboxes"))
        sandboxes = SandboxRoot.of(limits)
        if sandboxes is not None:
            sandboxes.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = worker_environment(os.environ, terms.environment)
        if terms.is_mpi:
            environment |= adapted(environment)
        return ProcessEngine(
            self,
            self._on_outcomes,
            workers=self._workers,
            python=terms.python or sys.executable,
            environment=environment,
            limits=limits,
            on_output=self._printed.add if terms.most_output_bytes else None,
            most_output_bytes=terms.most_output_bytes or PRINTED_LIMIT,
            spool=self._spool,
            inline_bytes=terms.inline_bytes or INLINE_BYTES,
            container=container,
        )


_hosts: dict[bytes, Host] = {}
_lock = threading.Lock()


def run(parcel: bytes) -> Reply:
    """Run calls here, one at a time, always on the same thread."""
    read = read_parcel(parcel)
    terms = read_terms(read.terms)
    if not terms.is_mpi:
        return encode(_host(read.terms, lambda: Host(terms, LoopHere(), workers=1)).run(read))
    # Each call has nodes of its own, which this process's environment names: new for each call.
    host = Host(terms, LoopHere(), workers=1)
    try:
        return encode(host.run(read))
    finally:
        host.close()


def run_among_others(parcel: bytes, *, workers: int, tell: OnPrinted) -> Reply:
    """Run calls here, for one of several threads; this process runs up to `workers` of them at a time. `tell` is as
    for `Host`."""
    read = read_parcel(parcel)
    terms = read_terms(read.terms)
    return encode(_host(read.terms, lambda: Host(terms, LoopThread(), workers=workers, tell=tell)).run(read))


def kill(terms: bytes, keys: Iterable[bytes]) -> None:
    """End calls that a pool runs here. What it has given back may run for another pool, here as well."""
    host = _hosts.get(terms)
    if host is not None:
        host.kill([UUID(bytes=key) for key in keys])


def close_all(terms: bytes) -> None:
    """End what runs here for a pool."""
    with _lock:
        found = _hosts.pop(terms, None)
    if found is not None:
        found.close()


def _host(key: bytes, make: Callable[[], Host]) -> Host:
    with _lock:
        host = _hosts.get(key)
        if host is None:
            host = _hosts[key] = make()
        return host


def _visible_spool(terms: Terms) -> Path | None:
    return Path(terms.spool) if terms.mark and Path(terms.mark).exists() else None


def _container(boxed: Boxed, directory: Path, spool: Path | None) -> Container:
    return Container(
        kind=boxed.kind,
        image=boxed.image,
        options=boxed.options,
        python=boxed.python,
        variables=tuple(boxed.variables),
        directory=directory,
        shared=spool,
    )


_NOT_SHARED = (
    "the arguments are too large for a message, and the file system that they lie on ({}) is not there on this node: "
    "its administrator puts the directory of the endpoint on a file system that the nodes share"
)
_NO_PYTHON = (
    "the Python of these tasks, with the packages that their functions need, lies at {}, which is not there on the node"
    " {}: the administrator puts the endpoint's directory, and its installation, on a file system that the nodes share"
)
