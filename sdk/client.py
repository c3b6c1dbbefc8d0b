"""The client of the service: functions, endpoints, tasks, events, users, one HTTP request each."""

from __future__ import annotations

import base64
import platform
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, overload
from uuid import UUID

from headrace.bus.data.payloads import Source
from headrace.bus.functions.code import FunctionCode, from_function, from_source
from headrace.bus.functions.modules import Modules
from headrace.bus.functions.requirements import of_script
from headrace.bus.names import Address
from headrace.bus.network import Network
from headrace.bus.tasks.bundles import FunctionUse, TaskOptions
from headrace.bus.tasks.options import changed
from headrace.sdk.actions import COMPUTE, ActionRequests
from headrace.sdk.bus_methods import BusMethods
from headrace.sdk.documents import Document, Id, check_json, given, id_or_none, id_text, items, segment, states
from headrace.sdk.event_methods import EventMethods
from headrace.sdk.http import PROTOCOL, Http, check_protocol, headrace_version
from headrace.sdk.logs import LogChunk, StreamName, TaskLogs, as_text
from headrace.sdk.needs import Requirements, needs_of, with_needs
from headrace.sdk.profile import Profile
from headrace.sdk.publications import Publications
from headrace.sdk.replay_methods import ReplayMethods
from headrace.sdk.serialize import ComputeSerializer
from headrace.sdk.source_methods import SourceMethods
from headrace.sdk.subscription_methods import SubscriptionMethods
from headrace.sdk.task_requests import TaskRequests
from headrace.sdk.token_source import TokenSource

_PIECE: Final = 1024 * 1024


class Client(EventMethods, BusMethods, SubscriptionMethods, ReplayMethods, SourceMethods):
    """Talks to the service that a URL and a token name, by default those of the environment or the profile.

    Nothing is read or sent before the first call. Any thread may use it. Every method raises `ClientError` (see
    `headrace.sdk.errors`) and, for an id that is not a UUID, `ValueError`.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | TokenSource | None = None,
        *,
        ca_file: str | PathLike[str] | None = None,
        profile: Profile | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """token: a text, or a function that gives the token to use now, for those that end soon: it is called before
        each request, from any thread. ca_file: authorities (PEM) that are trusted besides those of the system.
        profile: used as it is, in place of all that."""
        authorities = None if ca_file is None else Path(ca_file)
        source = token if callable(token) else None
        # It is asked for each request, so what stands in the profile is never sent.
        text = "asked-for-when-needed" if callable(token) else token
        self._http = Http(
            lambda: profile or Profile.find(url, text, ca_file=authorities), timeout_s=timeout_s, token=source
        )
        self._environments: dict[UUID, str] = {}
        self._tasks = TaskRequests(self._http)
        self._publications: dict[str, Publications] = {}
        self.on_close: list[Callable[[], None]] = []
        """What goes away with this client: called once, when it is closed."""
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; later calls raise `ClientError`. Closing twice is fine."""
        self.closed = True
        while self.on_close:
            self.on_close.pop()()
        self._http.close()

    @property
    def url(self) -> str:
        """The service's URL. Raises `NotConfigured`."""
        return self._http.url

    @property
    def network(self) -> Network:
        """How this machine gets to the service and the bus. Raises `NotConfigured`."""
        return self._http.network

    def version(self) -> Document:
        """The service's `service_version` and `protocol`. Raises `ProtocolMismatch` when this SDK does not fit."""
        answer: Document = self._http.request("GET", "/healthz")
        check_protocol(answer, self.url)
        return answer

    # Functions

    def register_function(
        self,
        function: Callable[..., Any],
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        public: bool = False,
        *,
        requirements: Requirements | None = None,
        python: str | None = None,
        modules: Iterable[Modules] = (),
        serializer: ComputeSerializer | None = None,
        input_schema: Mapping[str, Any] | None = None,
        default_endpoint: Id | None = None,
    ) -> str:
        """Store a function, by source and by cloudpickle; gives its id. The docstring is its description by default.

        requirements: the packages that it needs, as a list (`["numpy>=2"]`) or as the path of a `requirements.txt`.
        python: the Python that it needs (`"3.12"`, `">=3.11"`). modules: what travels with it: modules, `.py` files,
            folders. serializer: in which form it is stored; None is both.
        input_schema: what the body of its own action provider must be (a JSON schema of an object); by default it
            follows from signature, type hints and docstring. default_endpoint: where that provider runs it.

        Raises `FunctionUnusable` when the function or a module cannot be stored, and `RequirementsInvalid`.
        """
        from headrace.sdk.input_schema import of_function

        about = description if description is not None else (getattr(function, "__doc__", None) or "")
        code = from_function(function) if serializer is None else serializer.code(from_function(function))
        code = with_needs(code, needs_of(requirements, python), modules)
        schema = of_function(function) if input_schema is None else dict(input_schema)
        return self._register(code, about, metadata, public, schema, default_endpoint)

    def register_source_code(
        self,
        source: str,
        function_name: str | None = None,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        public: bool = False,
        *,
        requirements: Requirements | None = None,
        python: str | None = None,
        modules: Iterable[Modules] = (),
        input_schema: Mapping[str, Any] | None = None,
        default_endpoint: Id | None = None,
    ) -> str:
        """Store the text of a module; gives the id of its function `function_name`, by default the only one in it.

        What it needs is said as for `register_function`, or else in the text itself (`# /// script`, PEP 723). The
        text is read for its input schema, never run.

        Raises `FunctionUnusable` when the text does not compile, or defines no such function, and
        `RequirementsInvalid`.
        """
        from headrace.sdk.input_schema import of_source

        said = requirements is not None or python is not None
        needs = needs_of(requirements, python) if said else of_script(source)
        code = with_needs(from_source(source, function_name), needs, modules)
        schema = of_source(source, code.name) if input_schema is None else dict(input_schema)
        return self._register(code, description or "", metadata, public, schema, default_endpoint)

    def get_function(self, function_id: Id) -> Document:
        """What is known of a function, its source included."""
        answer: Document = self._http.request("GET", f"functions/{id_text(function_id, 'function_id')}")
        return answer

    def list_functions(self) -> list[Document]:
        """The functions that belong to whoever asks."""
        return items(self._http.request("GET", "functions"), "functions")

    def delete_function(self, function_id: Id) -> None:
        """Remove a function; tasks that were submitted before may still need it, and then fail."""
        self._http.request("DELETE", f"functions/{id_text(function_id, 'function_id')}")

    # Endpoints

    def register_endpoint(
        self,
        name: str,
        endpoint_id: Id | None = None,
        *,
        public: bool = False,
        shared_with: Iterable[str] = (),
        allowed_functions: Iterable[Id] | None = None,
    ) -> Document:
        """Register an endpoint, or change the one of this name; gives `endpoint_id` and a new `endpoint_token`."""
        body = given(
            name=name,
            endpoint_id=id_or_none(endpoint_id, "endpoint_id"),
            public=public,
            shared_with=list(shared_with),
            allowed_functions=None
            if allowed_functions is None
            else [id_text(function, "allowed_functions") for function in allowed_functions],
        )
        answer: Document = self._http.request("POST", "endpoints", body=body)
        return answer

    def get_endpoints(self) -> list[Document]:
        """The endpoints that whoever asks may use."""
        return items(self._http.request("GET", "endpoints"), "endpoints")

    def get_endpoint_metadata(self, endpoint_id: Id) -> Document:
        """What is known of an endpoint."""
        answer: Document = self._http.request("GET", f"endpoints/{id_text(endpoint_id, 'endpoint_id')}")
        return answer

    def get_endpoint_status(self, endpoint_id: Id) -> Document:
        """Whether an endpoint is `online` or `offline` (key `status`), and what its pools do."""
        answer: Document = self._http.request("GET", f"endpoints/{id_text(endpoint_id, 'endpoint_id')}/status")
        return answer

    def get_endpoint_queue(self, endpoint_id: Id) -> Document:
        """How many bundles wait or run at an endpoint, and how many there may be: `own` for whoever asks.

        `own` has `bundles` (the limit), `used`, `room` (how many more) and `may_submit`; None is no limit.
        """
        answer: Document = self._http.request("GET", f"endpoints/{id_text(endpoint_id, 'endpoint_id')}/queue")
        return answer

    def share_endpoint(self, endpoint_id: Id, principal: str) -> Document:
        """Let a user or a group (by URN), or everybody (`public`), use an endpoint of one's own; gives the endpoint.

        Raises `RequestRefused` (404) for a user or group whom the service does not know.
        """
        path = f"endpoints/{id_text(endpoint_id, 'endpoint_id')}/shares"
        answer: Document = self._http.request("POST", path, body={"with": principal}, repeatable=True)
        return answer

    def unshare_endpoint(self, endpoint_id: Id, principal: str) -> Document:
        """Take back what `share_endpoint` or the endpoint's config.yaml opened; live sessions of strangers end.

        What config.yaml says comes back at the endpoint's next start.
        """
        path = f"endpoints/{id_text(endpoint_id, 'endpoint_id')}/shares"
        answer: Document = self._http.request("DELETE", path, query={"with": principal})
        return answer

    def list_endpoint_tasks(
        self, endpoint_id: Id, *, state: str | Iterable[str] | None = None, page_size: int = 100
    ) -> Iterator[Document]:
        """The tasks at an endpoint of one's own, whoever submitted them, as `list_tasks` gives one's own.

        Each names its `principal`; what its function gave, or raised, is not for the owner of the endpoint.
        """
        query = given(state=None if state is None else states(state), limit=page_size)
        return self._tasks.pages(query, f"endpoints/{id_text(endpoint_id, 'endpoint_id')}/tasks")

    def cancel_endpoint_tasks(
        self,
        endpoint_id: Id,
        task_ids: Iterable[Id] | None = None,
        *,
        principal: str | None = None,
        pool: str | None = None,
        everything: bool = False,
        force: bool = False,
    ) -> Document:
        """Cancel tasks at an endpoint of one's own, whoever submitted them, as `cancel_group` does it.

        Either these tasks (5 000 at most), or all of a principal, of a pool, or of both, or `everything`.
        """
        body = given(
            task_ids=None if task_ids is None else [id_text(task, "task_ids") for task in task_ids],
            principal=principal,
            pool=pool,
            everything=everything or None,
            force=force,
        )
        return self._tasks.cancel_at(id_text(endpoint_id, "endpoint_id"), body)

    def delete_endpoint(self, endpoint_id: Id) -> None:
        """Remove an endpoint. Its token stops working at once, and its tasks without a result are cancelled."""
        self._http.request("DELETE", f"endpoints/{id_text(endpoint_id, 'endpoint_id')}")

    # Tasks

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
        answer: Document = self._http.request("GET", f"task-groups/{id_text(task_group_id, 'task_group_id')}")
        return answer

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
        answer: Document = self._http.request("POST", path, body={"force": force}, repeatable=True)
        return answer

    def cancel_group(self, task_group_id: Id, task_ids: Iterable[Id] | None = None, *, force: bool = False) -> Document:
        """Cancel tasks of a group, the given ones or all that are queued or run, each as `cancel` does it.

        In the answer `found` is how many there were, 0 where nothing of the group is queued or runs; `states` says
        how many of them are in which state now (`unknown`: there is no such task, or its result has expired), and
        `running` names those that have no result yet.
        """
        group = id_text(task_group_id, "task_group_id")
        named = None if task_ids is None else [id_text(task, "task_ids") for task in task_ids]
        return self._tasks.cancel_group(group, named, force=force)

    # Users and tokens

    def whoami(self) -> Document:
        """Who the token's holder is: `principal`, `groups`, `admin`, `token_id`."""
        answer: Document = self._http.request("GET", "whoami")
        return answer

    def create_user(
        self, name: str, *, groups: Sequence[str] = (), admin: bool = False, again: bool = False
    ) -> Document:
        """Add a user; gives its `principal`. Only an administrator may.

        The name of a user who was removed is refused, unless `again` says that this is the same person.
        """
        body = {"name": name, "groups": list(groups), "admin": admin, **({"again": True} if again else {})}
        answer: Document = self._http.request("POST", "users", body=body)
        return answer

    def list_users(self) -> list[Document]:
        """All users. Only an administrator may ask."""
        return items(self._http.request("GET", "users"), "users")

    def delete_user(self, name: str) -> None:
        """Remove a user, with tokens, endpoints, subscriptions and queued tasks. Only an administrator may."""
        self._http.request("DELETE", f"users/{segment(name, 'name')}")

    def list_groups(self) -> list[Document]:
        """Groups and their `members`: one's own or, for an administrator, all."""
        return items(self._http.request("GET", "groups"), "groups")

    def add_to_group(self, group: str, user: str) -> None:
        """Put a user into a group (`lab`, or a URN), which is made so. Only an administrator may."""
        self._http.request("PUT", f"groups/{segment(group, 'group')}/members/{segment(user, 'user')}")

    def remove_from_group(self, group: str, user: str) -> None:
        """Take a user out of a group; sessions that needed it end. Only an administrator may."""
        self._http.request("DELETE", f"groups/{segment(group, 'group')}/members/{segment(user, 'user')}")

    def create_token(
        self,
        user: str | None = None,
        *,
        label: str | None = None,
        expires_in_s: float | None = None,
        publishes: str | None = None,
    ) -> Document:
        """Make a token, for oneself or (as an administrator) for a user; `token` in the answer is shown only now.

        publishes: it may do nothing but publish events whose source begins with this; empty for any source.
        """
        body = given(user=user, label=label, expires_in_s=expires_in_s, publishes=publishes)
        answer: Document = self._http.request("POST", "tokens", body=body)
        return answer

    def list_tokens(self, user: str | None = None) -> list[Document]:
        """One's own tokens, without the secrets; an administrator may ask for a user's, or for all with `*`."""
        return items(self._http.request("GET", "tokens", query={"user": user}), "tokens")

    def revoke_token(self, token_id: str) -> None:
        """Withdraw a token: it, and the sessions opened with it, end within seconds."""
        self._http.request("DELETE", f"tokens/{segment(token_id, 'token_id')}")

    # What the Executor needs

    def open_session(
        self,
        endpoint_id: Id | None = None,
        user_endpoint_config: Mapping[str, Any] | None = None,
        wanted: bool = True,
        environment: str = "",
    ) -> Document:
        """A short-lived credential for the bus and the keys for one endpoint's pool: that of the configuration and of
        the environment of functions, which is started unless it is not `wanted` now.

        Without an endpoint the only one that is accessible is used. Raises `ProtocolMismatch`, and `RequestRefused`
        (409, naming them) when there is none or more than one.
        """
        body = given(
            endpoint_id=id_or_none(endpoint_id, "endpoint_id"),
            user_endpoint_config=None if user_endpoint_config is None else dict(user_endpoint_config),
            wanted=None if wanted else False,
            environment=environment or None,
            protocol=PROTOCOL,
            sdk_version=headrace_version(),
            python_version=platform.python_version(),
        )
        answer: Document = self._http.request("POST", "sessions", body=body, repeatable=True)
        check_protocol(answer, self.url)
        return answer

    def grant_function(self, endpoint_id: Id, function_id: Id, pool: str | None = None) -> FunctionUse:
        """The service's proof, for a pool, that whoever asks may run the function there."""
        function = UUID(id_text(function_id, "function_id"))
        path = f"endpoints/{id_text(endpoint_id, 'endpoint_id')}/function-grants"
        answer = self._http.request("POST", path, body=given(function_id=str(function), pool=pool), repeatable=True)
        self._environments[function] = str(answer.get("environment") or "")
        return FunctionUse(function, base64.b64decode(answer["grant"]), int(answer["grant_expires"]))

    def environment_of(self, function_id: UUID) -> str | None:
        """The environment that a function needs, as `open_session` takes it; None before its first grant."""
        return self._environments.get(function_id)

    def use_objects(self, address: Address, objects: Collection[str]) -> list[str]:
        """Say that a bundle needs these objects (by SHA-256); those that have to be uploaded before it is sent."""
        body = {
            "pool": address.pool,
            "task_group_id": str(address.group),
            "bundle_id": str(address.bundle),
            "objects": list(objects),
        }
        answer = self._http.request("POST", f"endpoints/{address.endpoint}/object-uses", body=body, repeatable=True)
        missing: list[str] = answer["missing"]
        return missing

    def upload_object(self, source: Source) -> None:
        """Store a large argument."""
        reader = source.reader()
        self._http.send_stream(f"objects/{source.sha256}", iter(lambda: reader.read(_PIECE), b""), size=source.size)

    def download_object(self, sha256: str, write: Callable[[bytes], object], start: int = 0) -> None:
        """Give a large result of one's own to `write`, piece by piece, from byte `start` on."""
        self._http.receive_stream(f"objects/{sha256}", write, start=start)

    def _register(
        self,
        code: FunctionCode,
        description: str,
        metadata: Mapping[str, Any] | None,
        public: bool,
        input_schema: Mapping[str, Any],
        default_endpoint: Id | None,
    ) -> str:
        body = given(
            name=code.name,
            source=code.source or None,
            pickled=base64.b64encode(code.pickled).decode("ascii") or None,
            entry_point=code.entry_point or None,
            python_version=code.python_version,
            modules=base64.b64encode(code.modules).decode("ascii") or None,
            requirements=code.requirements or None,
            requires_python=code.requires_python or None,
            description=description or None,
            public=public,
            metadata=None if metadata is None else dict(metadata),
            input_schema=input_schema,
            default_endpoint=id_or_none(default_endpoint, "default_endpoint"),
        )
        check_json(body)
        return str(self._http.request("POST", "functions", body=body)["function_id"])
