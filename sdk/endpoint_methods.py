"""The methods of `Client` about endpoints, and who may use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from headrace.sdk.documents import Document, Id, given, id_or_none, id_text, items, states
from headrace.sdk.http import Http
from headrace.sdk.task_requests import TaskRequests


class EndpointMethods:
    """What a client says of endpoints; whoever inherits it has `_http` and `_tasks`."""

    _http: Http
    _tasks: TaskRequests

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
        return self._http.document("POST", "endpoints", body=body)

    def get_endpoints(self) -> list[Document]:
        """The endpoints that whoever asks may use."""
        return items(self._http.request("GET", "endpoints"), "endpoints")

    def get_endpoint_metadata(self, endpoint_id: Id) -> Document:
        """What is known of an endpoint."""
        return self._http.document("GET", f"endpoints/{id_text(endpoint_id, 'endpoint_id')}")

    def get_endpoint_status(self, endpoint_id: Id) -> Document:
        """Whether an endpoint is `online` or `offline` (key `status`), and what its pools do."""
        return self._http.document("GET", f"endpoints/{id_text(endpoint_id, 'endpoint_id')}/status")

    def get_endpoint_queue(self, endpoint_id: Id) -> Document:
        """How many bundles wait or run at an endpoint, and how many there may be: `own` for whoever asks.

        `own` has `bundles` (the limit), `used`, `room` (how many more) and `may_submit`; None is no limit.
        """
        return self._http.document("GET", f"endpoints/{id_text(endpoint_id, 'endpoint_id')}/queue")

    def share_endpoint(self, endpoint_id: Id, principal: str) -> Document:
        """Let a user or a group (by URN), or everybody (`public`), use an endpoint of one's own; gives the endpoint.

        Raises `RequestRefused` (404) for a user or group whom the service does not know.
        """
        path = f"endpoints/{id_text(endpoint_id, 'endpoint_id')}/shares"
        return self._http.document("POST", path, body={"with": principal}, repeatable=True)

    def unshare_endpoint(self, endpoint_id: Id, principal: str) -> Document:
        """Take back what `share_endpoint` or the endpoint's config.yaml opened; live sessions of strangers end.

        What config.yaml says comes back at the endpoint's next start.
        """
        path = f"endpoints/{id_text(endpoint_id, 'endpoint_id')}/shares"
        return self._http.document("DELETE", path, query={"with": principal})

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
