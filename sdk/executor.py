"""`Executor`: `concurrent.futures.Executor` over an endpoint."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal
from uuid import UUID

import msgspec

from headrace.bus.data.encodings import inline_bytes
from headrace.bus.errors import ArgumentNotSerialisable, SubmissionRefused
from headrace.bus.functions.modules import Modules, pack
from headrace.bus.mpi import MPIFunction
from headrace.bus.tasks import options
from headrace.bus.tasks.bundles import FunctionUse, TaskOptions
from headrace.schemas import HeadraceError
from headrace.sdk import arguments, mapping
from headrace.sdk.channel import Channel
from headrace.sdk.channels import Channels
from headrace.sdk.client import Client
from headrace.sdk.executor_settings import Settings
from headrace.sdk.forks import tell_after_fork
from headrace.sdk.future import TaskFuture, failed_future
from headrace.sdk.limits import WhenFull, most_unfinished
from headrace.sdk.outbox import NewTask
from headrace.sdk.payloads import encode_call
from headrace.sdk.registered import Registered
from headrace.sdk.serialize import ComputeSerializer, Strategy
from headrace.sdk.session import Session
from headrace.sdk.sessions import shared_client
from headrace.sdk.submission import KEEP, Keep, Submission
from headrace.sdk.unfinished import Unfinished

_CANCELS_S = 60.0

_Way = tuple[Session, Channel, FunctionUse]


class Executor(Settings, concurrent.futures.Executor):
    """Runs functions on an endpoint; a real `concurrent.futures.Executor`, safe to use from any thread.

    endpoint_id: where tasks run. None: the only endpoint that is accessible, found at the first submission.
    client: how to reach the service. None: this process's shared client (`HEADRACE_URL` and `HEADRACE_TOKEN`, else
        the profile that `headrace up` or `headrace login` wrote).
    task_group_id: the group whose results this executor reads. None: a new one.
    resource_specification, user_endpoint_config: JSON-able dicts, taken as they are at each submission.
    label: a name for people.
    batch_size: the most tasks in one message; bundling needs no tuning.
    max_unfinished: the most tasks of this executor that may be unfinished at one time. None: no limit.
    when_full: what a submission does that finds no room, here or in a queue with a limit: `"block"` until there is
        some, or `"raise"` `QueueFull`. full_timeout_s: how long it blocks at most before it raises `QueueFull`.
        None: as long as it takes.

    serializer: how functions and arguments are written (`headrace.sdk.serialize`). result_serializers: how results
        are. allow_pickle: False asks for results as JSON, and reads none, and no error, that came as a pickle.

    What the bus has not stored yet is always bounded (20 000 tasks, 64 MB), so a loop that submits without end holds
    no more than that and the futures. A submission that blocks ends with Ctrl-C, and with `shutdown`. It blocks the
    thread that it is made in, also one in which an event loop runs: there choose `when_full="raise"`, or
    `await asyncio.to_thread(executor.submit, fn)`. In a future's callback it never blocks: the task is taken in.

    A child after `fork` may go on with this executor, by connections of its own; futures that the parent had by
    then end in the parent only.

    How tasks run (time-outs, retries) is said with `with_options`, for all of them or for some.

    The constructor does no I/O. An error of a submission (an argument that cannot be sent, an unknown endpoint, a
    refusal) fails the future it belongs to; the executor lives on.
    """

    _submission = Submission()

    def __init__(
        self,
        endpoint_id: UUID | str | None = None,
        client: Client | None = None,
        task_group_id: UUID | str | None = None,
        resource_specification: dict[str, Any] | None = None,
        user_endpoint_config: dict[str, Any] | None = None,
        label: str = "",
        batch_size: int = 128,
        *,
        max_unfinished: int | None = None,
        when_full: Literal["block", "raise"] = "block",
        full_timeout_s: float | None = None,
        serializer: ComputeSerializer | None = None,
        result_serializers: Iterable[Strategy] | None = None,
        allow_pickle: bool = True,
    ) -> None:
        self.endpoint_id = endpoint_id
        self.task_group_id = uuid.uuid4() if task_group_id is None else task_group_id
        self.resource_specification = resource_specification
        self.user_endpoint_config = user_endpoint_config
        self.label = label
        self.batch_size = max(1, int(batch_size))
        self.serializer = serializer
        self.result_serializers = result_serializers
        self._allow_pickle = allow_pickle
        self._client = client
        self._lock = threading.Lock()
        self._registered = Registered()
        self._modules: list[Modules] = []
        self._channels = Channels(lambda: self.client)
        self._ways: dict[UUID, _Way] = {}
        self._most_unfinished = most_unfinished(max_unfinished)
        self._unfinished = Unfinished(self._most_unfinished, self._on_idle)
        self._submission = Submission(when_full=WhenFull.of(when_full, full_timeout_s))
        self._submitted = 0
        self._shut_down = False
        tell_after_fork(self)

    def __repr__(self) -> str:
        name = f" {self.label!r}" if self.label else ""
        return f"<Executor{name} endpoint_id={self.endpoint_id} task_group_id={self.task_group_id}>"

    @property
    def client(self) -> Client:
        """The client in use."""
        with self._lock:
            if self._client is None:
                self._client = shared_client()
            return self._client

    @property
    def task_count_submitted(self) -> int:
        """How many tasks were handed over for sending."""
        return self._submitted

    def with_options(
        self,
        *,
        task_timeout_s: float | Keep | None = KEEP,
        queue_timeout_s: float | Keep | None = KEEP,
        max_retries: int | Keep = KEEP,
        retry_delay_s: float | Keep = KEEP,
        rerun_on_loss: bool | Keep = KEEP,
        resource_specification: dict[str, Any] | Keep | None = KEEP,
        when_full: Literal["block", "raise"] | Keep = KEEP,
        full_timeout_s: float | Keep | None = KEEP,
    ) -> Executor:
        """This executor with other options for what is submitted through the returned view. Durations are in seconds.

        task_timeout_s: the longest that the function may run; then its worker is killed, with all processes that it
            started, and the task is `expired`. None: no limit.
        queue_timeout_s: the longest that a task may wait for its start, from when it was stored; a task that waits
            longer never starts, and is `expired`. None: no limit.
        max_retries: how often the function is run again when it raises. retry_delay_s: the pause before that.
        rerun_on_loss: whether the task runs again when its worker or machine dies; False ends it as `TaskLost`.
        resource_specification: what the task needs of the engine, in place of the executor's. None: nothing.
        when_full, full_timeout_s: what a submission does that finds no room; see `Executor`.

        The view *is* this executor but for the options: same group, functions, settings, and `shutdown` of one is the
        other's. Options that are not given stay what they are here, so views can be made from views. Costs nothing:

            executor.with_options(max_retries=3, retry_delay_s=1).submit(fetch, url, max_retries="the function's own")

        Raises `TypeError` and `ValueError`, naming the option, for a value that cannot be.
        """
        changes = {
            "task_timeout_s": task_timeout_s,
            "queue_timeout_s": queue_timeout_s,
            "max_retries": max_retries,
            "retry_delay_s": retry_delay_s,
            "rerun_on_loss": rerun_on_loss,
            "resource_specification": resource_specification,
            "when_full": when_full,
            "full_timeout_s": full_timeout_s,
        }
        return _View(self, self._submission.changed(changes))

    def register_function(self, fn: Callable[..., Any], function_id: str | None = None, **details: Any) -> str:
        """Register a function and give its id; needs no endpoint. The same function again gives the same id.

        With `function_id` the service is not asked: `fn` is then taken for the code behind that id. `details` go to
        `Client.register_function`, `requirements=`, `python=` and `modules=` among them. Raises `ClientError`, and
        `FunctionUnusable` when the function cannot be packed.
        """
        if function_id is not None:
            return self._registered.register(fn, lambda: str(function_id), again=True)
        return self._registered.register(fn, lambda: self._register(fn, details), again=bool(details))

    def register_source_code(self, source: str, function_name: str, **details: Any) -> str:
        """Register the text of a module and the name of the function in it; gives the function's id.

        Raises `FunctionUnusable` when the text does not compile or does not define the name, and `ClientError`.
        """
        return self.client.register_source_code(source, function_name, **self._with_modules(details))

    def register_module(self, *modules: Modules) -> None:
        """Send these along with every function that is registered through this executor from now on.

        Each is a module, a `.py` file, the folder of a package, or a folder whose modules are wanted. Where the
        function runs they are imported under their names. Raises `FunctionUnusable` for what cannot be sent.
        """
        pack(modules)
        with self._lock:
            self._modules.extend(modules)

    def _register(self, fn: Callable[..., Any], details: dict[str, Any]) -> str:
        self._registered.details(fn, details)
        if self._serializer is not None:
            details = {"serializer": self._serializer, **details}
        return self.client.register_function(fn, **self._with_modules(details))

    def _with_modules(self, details: dict[str, Any]) -> dict[str, Any]:
        return {**details, "modules": [*self._modules, *details.get("modules", ())]} if self._modules else details

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskFuture:
        """Run `fn(*args, **kwargs)` on the endpoint. Registers the function at its first use.

        Raises `TypeError` when `fn` cannot be called, `QueueFull` where there is no room (see `when_full`),
        `ValueError` for an `MPIFunction` without a resource specification, and `RuntimeError` after `shutdown`.
        """
        if not callable(fn):
            raise TypeError(f"submit() needs a function to call, not {fn!r}")
        if isinstance(fn, MPIFunction) and not self._options().resource_specification:
            raise ValueError(f"set the executor's resource_specification before submitting {fn!r}")
        self._check_open()
        function_id = self._registered.find(fn)
        if function_id is None:
            try:
                function_id = UUID(self.register_function(fn))
            except HeadraceError as error:
                return failed_future(error)
        return self._submit(function_id, args, kwargs)

    def submit_to_registered_function(
        self, function_id: str | UUID, /, *given: Any, args: Any = None, kwargs: dict[str, Any] | None = None
    ) -> TaskFuture:
        """Run a registered function.

        The arguments are `args=` (a tuple or list) and `kwargs=` as named; or positional: one *tuple* is the tuple of
        arguments, a second dict after it the keyword arguments; anything else is passed on as it is given, so that
        `submit_to_registered_function(id, [1, 2])` calls `f([1, 2])`.

        Raises `ValueError` for an id that is no UUID, `TypeError` when arguments are given in two ways, `QueueFull`
        where there is no room, and `RuntimeError` after `shutdown`.
        """
        self._check_open()
        identifier = arguments.as_uuid(function_id, "function_id")
        return self._submit(identifier, *arguments.of_call(given, args, kwargs))

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Results of `fn` over the iterables, in their order, as the built-in `map` gives them.

        timeout: seconds from this call; then the iterator raises `TimeoutError`. chunksize: how many calls make one
        task; 1 is right for most, since small tasks share messages anyway. buffersize: how many tasks are submitted
        ahead of the result that was taken last, so that the iterables may be endless. None: all, now.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be at least 1")
        buffersize = mapping.window(buffersize)
        calls = zip(*iterables, strict=False)
        if chunksize == 1:
            futures = (self.submit(fn, *call) for call in calls)
            return mapping.results(futures, buffersize=buffersize, timeout=timeout)
        futures = (self._submit_chunk(fn, chunk) for chunk in mapping.chunks(calls, chunksize))
        return itertools.chain.from_iterable(mapping.results(futures, buffersize=buffersize, timeout=timeout))

    def reload_tasks(self, task_group_id: UUID | str | None = None) -> list[TaskFuture]:
        """Futures for all tasks of a group (by default this executor's own), whoever submitted them.

        The executor takes the group over. Raises `ValueError` for an id that is no UUID, and `ClientError`; it then
        keeps the group that it had.
        """
        group = arguments.uuid_or_none(task_group_id, "task_group_id") or self.task_group_id
        document = self.client.get_task_group(group)
        # Taken over once it is known to be there: what fails must not lead later submissions astray.
        self.task_group_id = group
        by_endpoint: dict[UUID, list[tuple[UUID, TaskFuture]]] = {}
        for task in document["tasks"]:
            future = TaskFuture()
            self._unfinished.add_anyway(future)
            future._logs = self._client
            future._plain_only = not self._allow_pickle
            task_id = UUID(task["task_id"])
            future.task_id = task_id
            by_endpoint.setdefault(UUID(task["endpoint_id"]), []).append((task_id, future))
        futures = [future for tasks in by_endpoint.values() for _, future in tasks]
        for endpoint, tasks in by_endpoint.items():
            try:
                # Results need no pool: reading them starts none.
                session, channel = self._channel(endpoint, None)
            except HeadraceError as error:
                for _, future in tasks:
                    future.set_exception(error)
                continue
            session.thread.call(functools.partial(channel.attach, tasks))
        return futures

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks. `wait`: until every future has its result. `cancel_futures`: cancel what has not started.

        With `wait` the service has also been told of everything that was cancelled: the process may end then.
        Idempotent. Without `wait` results still arrive as long as the process lives.
        """
        self._shut_down = True
        channels = self._channels.all()
        # Whoever is blocked in `submit` hears of it now.
        self._unfinished.wake()
        for _, channel in channels:
            channel.wake()
        if cancel_futures:
            for future in self._unfinished.snapshot():
                future.cancel()
        if wait:
            self._unfinished.wait()
        for session, channel in channels if wait else ():
            if channel.cancellations.untold and not session.thread.is_current:
                channel.cancellations.wait(_CANCELS_S)
        if not self._unfinished:
            self._ways = {}
            self._channels.leave()

    def after_fork(self) -> None:
        """In a forked child: make connections of its own when they are needed. Functions stay registered."""
        self._lock = threading.Lock()
        self._registered.after_fork()
        self._channels = Channels(lambda: self.client)
        self._ways = {}
        self._unfinished = Unfinished(self._most_unfinished, self._on_idle)

    def _submit_chunk(self, fn: Callable[..., Any], calls: tuple[tuple[Any, ...], ...]) -> TaskFuture:
        self._check_open()
        chunk, details = self._registered.chunk(fn), self._registered.details(fn)
        if details and self._registered.find(chunk) is None:
            try:
                self.register_function(chunk, **details)
            except HeadraceError as error:
                return failed_future(error)
        return self.submit(chunk, calls)

    def _submit(self, function_id: UUID, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskFuture:
        try:
            session, channel, use = self._ways.get(function_id) or self._way(function_id)
        except (HeadraceError, TimeoutError) as error:
            return failed_future(error)
        try:
            inline = inline_bytes(session.grant.max_payload)
            encode = encode_call if self._serializer is None else self._serializer.call
            encoding, payload, sources = encode(args, kwargs, inline=inline)
        except HeadraceError as error:
            return failed_future(error)
        except Exception as error:
            # Pickling calls code of the user's own classes: whatever that raises is about this argument.
            refused = ArgumentNotSerialisable(f"an argument cannot be sent: {error!r}")
            refused.__cause__ = error
            return failed_future(refused)
        future = TaskFuture()
        future._logs = self._client
        future._plain_only = not self._allow_pickle
        try:
            self._unfinished.add(future, self._submission.when_full, self._check_open)
            task = NewTask(use, self._options(), encoding, payload, future, sources)
            channel.submit(task, when_full=self._submission.when_full, check=self._check_open)
        except SubmissionRefused as error:
            future.set_exception(error)
        except BaseException:
            for source in sources:
                source.close()
            self._unfinished.ended(future)
            raise
        self._submitted += 1
        return future

    def _options(self) -> TaskOptions:
        task, specification = self._submission.task, self._resource_specification
        if (self._json_results or not self._allow_pickle) and not task.json_result:
            task = msgspec.structs.replace(task, json_result=True)
        if not specification or self._submission.has_resources:
            return task
        return options.with_resources(task, specification)

    def _way(self, function_id: UUID) -> _Way:
        """The way to the pool that has what the function needs, and the word that it may run there."""
        # Kept for the next call, but not with a configuration, which may be changed in place. Whatever else a way
        # depends on puts an empty table there when it is set: what was looked up before that goes with the old one.
        ways, config, client = self._ways, self._user_endpoint_config, self.client
        known = client.environment_of(function_id)
        session, channel = self._channel(self.endpoint_id, config, known or "")
        use = session.function_use(function_id)
        if known is None and (needed := client.environment_of(function_id)):  # named with the function's first grant
            session, channel = self._channel(self.endpoint_id, config, needed)
            use = session.function_use(function_id)
        if config is None:
            ways[function_id] = session, channel, use
        return session, channel, use

    def _channel(
        self, endpoint_id: UUID | None, config: dict[str, Any] | None, environment: str = ""
    ) -> tuple[Session, Channel]:
        most, group = self.batch_size, self.task_group_id
        return self._channels.get(endpoint_id, config, group, most_per_bundle=most, environment=environment)

    def _on_idle(self) -> None:
        if self._shut_down:
            self._ways = {}
            self._channels.leave()

    def _check_open(self) -> None:
        if self._shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")


class _View(Executor):
    """An executor that shares all of its state with another one, but for the options."""

    __slots__ = ("_submission",)

    def __init__(self, executor: Executor, submission: Submission) -> None:
        self.__dict__ = executor.__dict__
        self._submission = submission
