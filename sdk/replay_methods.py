"""The methods of `Client` about replays: events of the past, delivered once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from headrace.sdk.documents import Document, Id, given, id_or_none, id_text, items, time_text
from headrace.sdk.http import Http


class ReplayMethods:
    """What a client says of replays; whoever inherits it has `_http`."""

    _http: Http

    def create_replay(
        self,
        subscription_id: Id | None = None,
        *,
        function_id: Id | None = None,
        endpoint_id: Id | None = None,
        input: Mapping[str, Any] | None = None,  # noqa: A002  # what a subscription calls it
        retry: Mapping[str, Any] | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        from_sequence: int | None = None,
        to_sequence: int | None = None,
        wanted: Mapping[str, Any] | Sequence[Any] | None = None,
        per_second: float | None = None,
        name: str | None = None,
        bus: str | None = None,
    ) -> Document:
        """Deliver events of the past once more, in their order; gives the replay with its `replay_id`.

        subscription_id: to this subscription; or function_id (with endpoint_id, input, retry): to a target of its own.
        since or from_sequence: where it begins, a time or how long ago (`"12h"`), or a place on the bus; until or
        to_sequence: where it ends, by default now. wanted: a filter that events must pass as well. per_second: how many
        deliveries begin in a second, by default 50.
        """
        body = given(
            subscription_id=id_or_none(subscription_id, "subscription_id"),
            since=time_text(since),
            until=time_text(until),
            from_sequence=from_sequence,
            to_sequence=to_sequence,
            filter=wanted,
            per_second=per_second,
            name=name,
            bus=bus,
        )
        if function_id is not None:
            body["target"] = given(
                function_id=id_text(function_id, "function_id"),
                endpoint_id=id_or_none(endpoint_id, "endpoint_id"),
                input=input,
                retry=retry,
            )
        return self._http.document("POST", "replays", body=body)

    def get_replay(self, replay_id: Id) -> Document:
        """One replay: what was asked for, its `state`, and how far it has come."""
        return self._http.document("GET", f"replays/{id_text(replay_id, 'replay_id')}")

    def list_replays(self) -> list[Document]:
        """The replays that belong to whoever asks, newest first."""
        return items(self._http.request("GET", "replays"), "replays")

    def pause_replay(self, replay_id: Id) -> Document:
        """Let a replay rest where it is; gives the replay."""
        return self.change_replay(replay_id, state="paused")

    def resume_replay(self, replay_id: Id) -> Document:
        """Let a replay go on that was paused or has failed; gives the replay."""
        return self.change_replay(replay_id, state="running")

    def cancel_replay(self, replay_id: Id) -> Document:
        """End a replay; deliveries that it has made go on. Gives the replay."""
        return self.change_replay(replay_id, state="cancelled")

    def change_replay(self, replay_id: Id, *, state: str | None = None, per_second: float | None = None) -> Document:
        """Change the state of a replay (`running`, `paused`, `cancelled`) or its rate; gives the replay."""
        path, body = f"replays/{id_text(replay_id, 'replay_id')}", given(state=state, per_second=per_second)
        return self._http.document("PATCH", path, body=body)
