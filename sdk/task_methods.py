"""The methods of `Client` about tasks, what they print, and actions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, overload
from uuid import UUID

from headrace.bus.tasks.bundles import TaskOptions
from headrace.bus.tasks.options import changed
from headrace.sdk.actions import COMPUTE, ActionRequests
from headrace.sdk.documents import Document, Id, check_json, given, id_or_none, id_text, states
from headrace.sdk.http import Http
from headrace.sdk.logs import LogChunk, StreamName, TaskLogs, as_text
from headrace.sdk.task_requests import TaskRequests


class TaskMethods:
    """What a client says of tasks and actions; whoever inherits it has `_http` and `_tasks`."""

    _http: Http
    _tasks: TaskRequests

    def run(self, *args: Any, endpoint_id: Id, function_id: Id, **kwargs: Any) -> str:
        """Submit one call with JSON arguments; gives the task's id.

        Raises `ArgumentNotSerialisable` for arguments that JSON cannot carry; `Executor.submit` can carry them.
        """
        return self.submit(endpoint_id, function_id, args, kwargs)

    def submit(
        self,
        endpoint_id: Id,
        function_id: Id,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Submit one call with JSON arguments, as `run` does, with options; gives the task's id.

        options: any of `task_timeout_s`, `queue_timeout_s`, `max_retries`, `retry_delay_s` and `rerun_on_loss`; see
            `Executor.with_options` for their meaning.

        Raises `ArgumentNotSerialisable` for arguments that JSON cannot carry, `QueueFull` when the endpoint's queue has
        no room for it, `TypeError` and `ValueError` for an option that cannot be.
        """
        body = {"function_id": id_text(function_id, "function_id"), "args": list(args), "kwargs": dict(kwargs or {})}
        if options:
            changed(TaskOptions(), options)
            body["options"] = dict(options)
        check_json(body)
        answer = self._http.request("POST", f"endpoints/{id_text(endpoint_id, 'endpoint_id')}/tasks", body=body)
        return str(answer["tasks"][0]["task_id"])

    def get_task(self, task_id: Id, wait_s: float | None = None) -> Document:
        """A task's state and, once it has ended, its result or error. A failure of the task raises nothing.

        With `wait_s` the answer comes when the task has ended, or after so many seconds.
        """
        return self._tasks.get(id_text(task_id, "task_id"), wait_s)

    def get_result(self, task_id: Id, wait_s: float | None = None) -> Any:
        """The value of a task, as JSON has it.

        Raises `TaskPending` before the task's end, its `TaskError` when it has no value, and `ResultNotSerialisable`
        for a value that only an `Executor` can read.
        """
        return self._tasks.value(id_text(task_id, "task_id"), wait_s)

    def get_task_group(self, task_group_id: Id) -> Document:
        """The tasks of a group and their states."""
        return self._http.document("GET", f"task-groups/{id_text(task_group_id, 'task_group_id')}")

    def list_tasks(
        self,
        *,
        state: str | Iterable[str] | None = None,
        endpoint_id: Id | None = None,
        function_id: Id | None = None,
        task_group_id: Id | None = None,
        since: datetime | str | None = None,
        page_size: int = 100,
    ) -> Iterator[Document]:
        """The tasks of whoever asks, without their values, page after page as they are iterated over.

        First comes what has no result, latest submitted first, then what has ended, latest first. A task that ends
        meanwhile may come twice. Nothing is sent before the first one is asked for.

        state: one or several of `pending`, `running`, `succeeded`, `failed`, `cancelled`, `expired`.
        since: a time (UTC where it has no zone), or how long ago as in `15m`; what was stored, or has ended, since.

        Raises `ValueError`, at once, for another state or an id that is not a UUID.
        """
        query = given(
            state=None if state is None else states(state),
            endpoint_id=id_or_none(endpoint_id, "endpoint_id"),
            function_id=id_or_none(function_id, "function_id"),
            task_group_id=id_or_none(task_group_id, "task_group_id"),
            since=since.isoformat() if isinstance(since, datetime) else since,
            limit=page_size,
        )
        return self._tasks.pages(query)

    def list_actions(
        self,
        provider: Id = COMPUTE,
        *,
        status: str | Iterable[str] = "active",
        roles: str | Iterable[str] = "creator_id",
        page_size: int = 100,
    ) -> Iterator[Document]:
        """The actions of a provider, page after page as they are iterated over: those that go on in the order of their
        beginning, then those that have ended in the order of their ends.

        provider: its address behind `/actions/`, or the id of a function.
        status: one or several of `active`, `inactive`, `succeeded`, `failed`.
        roles: what one is to the action, one or several of `creator_id`, `monitor_by`, `manage_by`.

        Raises `ValueError`, at once, for what cannot be a provider.
        """
        return ActionRequests(self._http, provider).pages(status, roles, page_size)

    def get_action(self, action_id: str, provider: Id = COMPUTE) -> Document:
        """The status of an action of a provider."""
        return ActionRequests(self._http, provider).get(action_id)

    @overload
    def task_logs(
        self, task_id: Id, *, follow: Literal[False] = False, stream: StreamName | None = None, tail: int | None = None
    ) -> str: ...

    @overload
    def task_logs(
        self, task_id: Id, *, follow: Literal[True], stream: StreamName | None = None, tail: int | None = None
    ) -> Iterator[LogChunk]: ...

    def task_logs(
        self, task_id: Id, *, follow: bool = False, stream: StreamName | None = None, tail: int | None = None
    ) -> str | Iterator[LogChunk]:
        """What a task has printed so far, as one text, with markers where something is missing.

        follow: an iterator instead, over `LogChunk`s as they are printed, until the task has ended; it blocks while
            there is nothing new.
        stream: only `stdout` or `stderr`. tail: only so many lines of what there is now, the last ones.
        """
        task, logs = UUID(id_text(task_id, "task_id")), TaskLogs(self._http)
        if follow:
            return logs.follow(task, stream=stream, tail=tail)
        return as_text(logs.read(task, stream=stream, tail=tail))

    def log_chunks(self, task_id: Id, *, stream: StreamName | None = None, tail: int | None = None) -> list[LogChunk]:
        """What a task has printed so far, piece by piece: when, in which attempt, on which worker."""
        return TaskLogs(self._http).read(UUID(id_text(task_id, "task_id")), stream=stream, tail=tail)

    def cancel(self, task_id: Id, force: bool = False) -> Document:
        """Cancel a task: one that is waiting never starts; one that runs is stopped only with `force`.

        Gives the task as it is then. Its state is `cancelled`, the state in which it had ended before, or `running`:
        without `force` it goes on, and with it its worker is being stopped (`get_task` with `wait_s` sees the end).
        """
        path = f"tasks/{id_text(task_id, 'task_id')}/cancel"
        return self._http.document("POST", path, body={"force": force}, repeatable=True)

    def cancel_group(self, task_group_id: Id, task_ids: Iterable[Id] | None = None, *, force: bool = False) -> Document:
        """Cancel tasks of a group, the given ones or all that are queued or run, each as `cancel` does it.

        In the answer `found` is how many there were, 0 where nothing of the group is queued or runs; `states` says
        how many of them are in which state now (`unknown`: there is no such task, or its result has expired), and
        `running` names those that have no result yet.
        """
        group = id_text(task_group_id, "task_group_id")
        named = None if task_ids is None else [id_text(task, "task_ids") for task in task_ids]
        return self._tasks.cancel_group(group, named, force=force)
