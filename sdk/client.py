"""The client of the service: one method, one HTTP request; what they are about has modules of its own."""

from __future__ import annotations

import base64
import platform
from collections.abc import Callable, Collection, Mapping
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

from headrace.bus.data.payloads import Source
from headrace.bus.names import Address
from headrace.bus.network import Network
from headrace.bus.tasks.bundles import FunctionUse
from headrace.sdk.account_methods import AccountMethods
from headrace.sdk.bus_methods import BusMethods
from headrace.sdk.documents import Document, Id, given, id_or_none, id_text
from headrace.sdk.endpoint_methods import EndpointMethods
from headrace.sdk.event_methods import EventMethods
from headrace.sdk.function_methods import FunctionMethods
from headrace.sdk.http import PROTOCOL, Http, check_protocol, headrace_version
from headrace.sdk.profile import Profile
from headrace.sdk.publications import Publications
from headrace.sdk.replay_methods import ReplayMethods
from headrace.sdk.source_methods import SourceMethods
from headrace.sdk.subscription_methods import SubscriptionMethods
from headrace.sdk.task_methods import TaskMethods
from headrace.sdk.task_requests import TaskRequests
from headrace.sdk.token_source import TokenSource

_PIECE: Final = 1024 * 1024


class Client(
    FunctionMethods,
    EndpointMethods,
    TaskMethods,
    AccountMethods,
    EventMethods,
    BusMethods,
    SubscriptionMethods,
    ReplayMethods,
    SourceMethods,
):
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
        answer = self._http.document("GET", "/healthz")
        check_protocol(answer, self.url)
        return answer

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
        answer = self._http.document("POST", "sessions", body=body, repeatable=True)
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
