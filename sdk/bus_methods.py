"""The methods of `Client` about buses, who may publish and subscribe there, and feeds from other systems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from headrace.sdk.documents import Document, Id, body_of, check_json, id_text, items, quoted
from headrace.sdk.http import Http


class BusMethods:
    """What a client says of buses; whoever inherits it has `_http`."""

    _http: Http

    def create_bus(
        self,
        name: str,
        *,
        description: str | None = None,
        publishers: Iterable[str] | None = None,
        subscribers: Iterable[str] | None = None,
        retention: Mapping[str, Any] | None = None,
        schemas: Mapping[str, Any] | None = None,
    ) -> Document:
        """Make a bus of your own; gives it.

        publishers, subscribers: the URNs of users and groups, or `public`, who may publish, or subscribe and so read;
        you may do both. retention: `max_age_s` and `max_bytes`, whichever ends first. schemas: by the type of events a
        `schema` (JSON schema of their data) and a `policy`: `reject` what does not fit, or `mark` it.
        """
        body = _body(description, publishers, subscribers, retention, schemas)
        return self._http.document("POST", "buses", body={"name": name, **body})

    def get_bus(self, name: str) -> Document:
        """One bus, and how much it holds: `events`, `bytes`, `first_sequence`, `last_sequence`."""
        return self._http.document("GET", _path(name))

    def list_buses(self) -> list[Document]:
        """The buses that you may use, the one for everybody first."""
        return items(self._http.request("GET", "buses"), "buses")

    def change_bus(
        self,
        name: str,
        *,
        description: str | None = None,
        publishers: Iterable[str] | None = None,
        subscribers: Iterable[str] | None = None,
        retention: Mapping[str, Any] | None = None,
        schemas: Mapping[str, Any] | None = None,
        owner: str | None = None,
    ) -> Document:
        """Change a bus of yours, as `create_bus` has it; what is left out stays. owner: gives it to somebody else."""
        body = _body(description, publishers, subscribers, retention, schemas)
        if owner is not None:
            body["owner"] = owner
        return self._http.document("PATCH", _path(name), body=body)

    def delete_bus(self, name: str) -> None:
        """Delete a bus of yours with its events, the subscriptions to it, and the schedules and webhooks that publish
        to it, whoever owns them. Tasks that run go on, dead letters stay, and the name stays yours."""
        self._http.request("DELETE", _path(name))

    def add_publisher(self, bus: str, principal: str) -> Document:
        """Let a user, a group (their URNs) or everybody (`public`) publish to a bus of yours; gives the bus."""
        return self._let(bus, "publishers", principal)

    def add_subscriber(self, bus: str, principal: str) -> Document:
        """Let a user, a group (their URNs) or everybody (`public`) subscribe to a bus of yours; gives the bus."""
        return self._let(bus, "subscribers", principal)

    def remove_publisher(self, bus: str, principal: str) -> Document:
        """Take it back; also their schedules and webhooks publish there no more."""
        return self._let_no_more(bus, "publishers", principal)

    def remove_subscriber(self, bus: str, principal: str) -> Document:
        """Take it back; events that come later do not reach their subscriptions."""
        return self._let_no_more(bus, "subscribers", principal)

    def create_bus_credential(
        self, bus: str, *, label: str | None = None, source: str | None = None, ttl_s: float | None = None
    ) -> Document:
        """Make a credential with which a program publishes to a bus straight over NATS, and can do nothing else.

        source: with what the sources of its events begin. ttl_s: how long it lives, by default a day. The answer has
        `creds` (the text of a .creds file, given only now), `subject`, `nats_urls` and `inbox_prefix`.
        """
        given = {"label": label, "source": source, "ttl_s": ttl_s}
        body = {name: value for name, value in given.items() if value is not None}
        return self._http.document("POST", f"{_path(bus)}/credentials", body=body)

    def list_bus_credentials(self, bus: str) -> list[Document]:
        """The credentials for publishing to a bus over NATS: yours, and those of others where the bus is yours."""
        return items(self._http.request("GET", f"{_path(bus)}/credentials"), "credentials")

    def delete_bus_credential(self, bus: str, credential_id: str) -> None:
        """Withdraw a credential: its connections end, and what it publishes is refused."""
        self._http.request("DELETE", f"{_path(bus)}/credentials/{quoted(credential_id, 'credential_id')}")

    def create_feed(self, feed: Mapping[str, Any]) -> Document:
        """Let messages of another NATS server become events of a bus (`urls`, `subjects`, `bus`, `stream`, `shape` …);
        gives the feed with its `feed_id`. For administrators."""
        return self._http.document("POST", "feeds", body=body_of(feed, "feed"))

    def get_feed(self, feed_id: Id) -> Document:
        """One feed, and its `status`: whether it reads, what went wrong last, and how many messages there were."""
        return self._http.document("GET", f"feeds/{id_text(feed_id, 'feed_id')}")

    def list_feeds(self) -> list[Document]:
        """All feeds."""
        return items(self._http.request("GET", "feeds"), "feeds")

    def change_feed(self, feed_id: Id, **changes: Any) -> Document:
        """Let a feed rest or go on (`paused`), or change its `urls`, `shape` or `credential`; gives the feed."""
        check_json(changes)
        return self._http.document("PATCH", f"feeds/{id_text(feed_id, 'feed_id')}", body=changes)

    def delete_feed(self, feed_id: Id) -> None:
        """End a feed; events that came through it stay."""
        self._http.request("DELETE", f"feeds/{id_text(feed_id, 'feed_id')}")

    def _let(self, bus: str, side: Literal["publishers", "subscribers"], principal: str) -> Document:
        return self._http.document("POST", f"{_path(bus)}/{side}", body={"with": principal})

    def _let_no_more(self, bus: str, side: Literal["publishers", "subscribers"], principal: str) -> Document:
        return self._http.document("DELETE", f"{_path(bus)}/{side}", query={"with": principal})


def _path(name: str) -> str:
    return f"buses/{quoted(name, 'bus')}"


def _body(
    description: str | None,
    publishers: Iterable[str] | None,
    subscribers: Iterable[str] | None,
    retention: Mapping[str, Any] | None,
    schemas: Mapping[str, Any] | None,
) -> dict[str, Any]:
    given = {
        "description": description,
        "publishers": None if publishers is None else list(publishers),
        "subscribers": None if subscribers is None else list(subscribers),
        "retention": retention,
        "schemas": schemas,
    }
    body = {name: value for name, value in given.items() if value is not None}
    check_json(body)
    return body
