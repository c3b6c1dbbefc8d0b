"""The methods of `Client` about subscriptions, and the deliveries that were given up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.sdk.documents import Document, Id, as_json, body_of, id_or_none, id_text, items
from headrace.sdk.event_batches import which_letters
from headrace.sdk.http import Http


class SubscriptionMethods:
    """What a client says of subscriptions; whoever inherits it has `_http`."""

    _http: Http

    def create_subscription(self, subscription: Mapping[str, Any]) -> Document:
        """Let events that match a filter run a function; gives the subscription with its `subscription_id`."""
        return self._http.document("POST", "subscriptions", body=body_of(subscription, "subscription"))

    def subscribe(self, function_id: Id, **fields: Any) -> Document:
        """Let events run a function, as `create_subscription` does, by keywords: `filter` and any other field of a
        subscription. Ids may be UUIDs, and `expires_at` a `datetime`."""
        document = {name: as_json(value) for name, value in fields.items() if value is not None}
        return self.create_subscription({"function_id": id_text(function_id, "function_id"), **document})

    def validate_subscription(self, subscription: Mapping[str, Any]) -> Document:
        """Try a subscription without making it: on its `sample`, or on an event that is made from its filter.

        Raises what making it would. Gives the `sample`, the `arguments` that the function would be called with, the
        `endpoint_id`, and `doubts`.
        """
        return self._http.document(
            "POST", "subscriptions/validate", body=body_of(subscription, "subscription"), repeatable=True
        )

    def get_subscription(self, subscription_id: Id) -> Document:
        """One subscription."""
        return self._http.document("GET", f"subscriptions/{id_text(subscription_id, 'subscription_id')}")

    def list_subscriptions(self) -> list[Document]:
        """The subscriptions that belong to whoever asks."""
        return items(self._http.request("GET", "subscriptions"), "subscriptions")

    def change_subscription(self, subscription_id: Id, change: Mapping[str, Any]) -> Document:
        """Change what `change` names of a subscription, which keeps its id; gives the subscription."""
        path = f"subscriptions/{id_text(subscription_id, 'subscription_id')}"
        return self._http.document("PATCH", path, body=body_of(change, "change"), repeatable=True)

    def pause_subscription(self, subscription_id: Id, *, backlog: str = "keep") -> Document:
        """Let a subscription's deliveries rest; gives the subscription. Events that come meanwhile are kept for later
        ("keep"), or dropped ("drop")."""
        return self.change_subscription(subscription_id, {"paused": True, "backlog": backlog})

    def resume_subscription(self, subscription_id: Id, *, backlog: str = "keep") -> Document:
        """Let a paused subscription go on; gives the subscription. What came meanwhile and was kept is delivered
        ("keep"), or dropped ("drop")."""
        return self.change_subscription(subscription_id, {"paused": False, "backlog": backlog})

    def delete_subscription(self, subscription_id: Id) -> None:
        """Remove a subscription; deliveries that are under way end."""
        self._http.request("DELETE", f"subscriptions/{id_text(subscription_id, 'subscription_id')}")

    def list_dead_letters(self, subscription_id: Id | None = None, limit: int | None = None) -> list[Document]:
        """Deliveries that were given up: event, reason, attempts."""
        query = {
            "subscription_id": id_or_none(subscription_id, "subscription_id"),
            "limit": limit,
        }
        return items(self._http.request("GET", "dead-letters", query=query), "dead_letters")

    def get_dead_letter(self, dead_letter_id: Id) -> Document:
        """One delivery that was given up."""
        return self._http.document("GET", f"dead-letters/{id_text(dead_letter_id, 'dead_letter_id')}")

    def redrive_dead_letters(
        self, *, endpoint_id: Id | None = None, per_second: float | None = None, **which: Any
    ) -> Document:
        """Deliver anew what was given up, each from its first attempt on; gives how many were `redriven`, and `left`.

        which: `dead_letter_ids`, `subscription_id`, `code`, `filter`, `limit`; all that are given apply. endpoint_id:
        where they run instead. per_second: how many begin in a second.
        """
        more = {"endpoint_id": id_or_none(endpoint_id, "endpoint_id"), "per_second": per_second}
        body = {**which_letters(which), **{name: value for name, value in more.items() if value is not None}}
        return self._http.document("POST", "dead-letters/redrive", body=body)

    def purge_dead_letters(self, **which: Any) -> int:
        """Remove deliveries that were given up, chosen as for `redrive_dead_letters`; gives how many."""
        return int(self._http.request("POST", "dead-letters/purge", body=which_letters(which))["purged"])
