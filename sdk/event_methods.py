"""The methods of `Client` about events: to publish them, and to try filters on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from headrace.sdk.documents import Document, Id, given, id_or_none, time_text
from headrace.sdk.event_batches import (
    BATCH_TYPE,
    DEFAULT_BUS,
    EVENT_TYPE,
    batches_of,
    events_of,
    filter_or_subscription,
    whole_event,
)
from headrace.sdk.http import Http
from headrace.sdk.publications import Publications

_SUBSCRIPTIONS_OF_A_PAGE = 200


class EventMethods:
    """What a client says of events; whoever inherits it has `_http` and, by bus, `_publications`."""

    _http: Http
    _publications: dict[str, Publications]

    def publish(self, event: Mapping[str, Any], *, bus: str = DEFAULT_BUS) -> Document:
        """Publish one CloudEvent (structured form, `id` and `specversion` are filled in); returns once it is stored.

        The same `source` and `id` are stored once, so a broken connection is simply tried again. The answer has the
        event's `id`, `source` and `sequence`, and whether it was a `duplicate`; on a bus that marks what does not fit
        the schema of its type, also the `problem`. What many threads publish at once goes together.
        """
        whole = whole_event(event)
        line = self._publications.get(bus)
        if line is None:
            line = self._publications.setdefault(bus, Publications(partial(self._send_events, events_of(bus))))
        return line.publish(whole)

    def publish_batch(self, events: Iterable[Mapping[str, Any]], *, bus: str = DEFAULT_BUS) -> list[Document]:
        """Publish many CloudEvents in their order; gives for each what `publish` gives, once all are stored.

        Up to 1 000 (or 4 MB) go in one request, and are stored together or not at all. Raises as `publish` does; then
        the requests before the one that failed are stored, and publishing all of them again stores nothing twice
        where the events have an `id` of their own.
        """
        published: list[Document] = []
        for batch in batches_of(whole_event(event) for event in events):
            answer = self._http.request("POST", events_of(bus), body=batch, content_type=BATCH_TYPE, repeatable=True)
            published += answer["events"]
        return published

    def _send_events(self, path: str, events: list[Document]) -> list[Document]:
        """Send one event as it is, or several as a batch; gives the answer of each."""
        if len(events) == 1:
            return [self._http.request("POST", path, body=events[0], content_type=EVENT_TYPE, repeatable=True)]
        answer = self._http.request("POST", path, body=events, content_type=BATCH_TYPE, repeatable=True)
        published: list[Document] = answer["events"]
        return published

    def get_event(self, sequence: int, *, bus: str = "default") -> Document:
        """A stored event by its place on the bus: the `event`, when it was `stored_at`, and, where that is yours to
        see, `published_by`."""
        if not isinstance(sequence, int):
            raise TypeError(f"sequence must be a whole number, not {sequence!r}")
        return self._http.document("GET", f"events/{sequence}", query={"bus": bus})

    def list_events(
        self,
        *,
        bus: str = "default",
        event_type: str | None = None,
        wanted: Mapping[str, Any] | Sequence[Any] | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        limit: int = 50,
    ) -> list[Document]:
        """The newest events that a bus holds, newest first: each as `get_event` gives it.

        event_type: only of this type, or with `.*` behind it of those below. wanted: a filter. since, until: a time, or
        how long ago (`"12h"`).
        """
        query = {
            **given(type=event_type, since=time_text(since), until=time_text(until)),
            **({} if wanted is None else {"filter": json.dumps(wanted)}),
            "bus": bus,
        }
        events: list[Document] = []
        while len(events) < limit:
            page = self._http.request("GET", "events", query={**query, "limit": min(limit - len(events), 500)})
            events += page["events"]
            if page["next"] is None:
                break
            query["before"] = page["next"]
        return events

    def trace_event(
        self,
        event: int | tuple[str, str],
        *,
        bus: str = "default",
        event_type: str | None = None,
        subscription_id: Id | None = None,
        explain: bool = False,
        follow: bool = True,
    ) -> Document:
        """Everything that followed from an event, as far as it is yours to see.

        event: its sequence, or its source and id (an event that is found sooner where its `event_type` is named). The
        answer has the event as it is `stored`, and the `subscriptions` that it met, each with its `deliveries`: their
        `state`, `attempts`, `redrives`, `dead_letter`, and the event that was `announced`, with the trace of that.
        explain: also why each of them matched, or did not. follow: whether announced events are followed.
        """
        path = "events/trace"
        query: Document = {
            "bus": bus,
            "explain": "true" if explain else "false",
            "follow": "true" if follow else "false",
        }
        if isinstance(event, tuple):
            query |= {"source": event[0], "id": event[1], **given(type=event_type)}
        else:
            path = f"events/{int(event)}/trace"
        query |= given(subscription_id=id_or_none(subscription_id, "subscription_id"))
        query["limit"] = _SUBSCRIPTIONS_OF_A_PAGE
        trace: Document = self._http.request("GET", path, query=query)
        if trace["stored"] is not None:
            # Where it lies is known now: it need not be looked for again.
            path = f"events/{trace['stored']['sequence']}/trace"
            query = {name: query[name] for name in query.keys() - {"source", "id", "type"}}
        while trace["next"] is not None:
            page = self._http.request("GET", path, query={**query, "start": trace["next"]})
            trace["subscriptions"] += page["subscriptions"]
            trace["passed_over"] += page["passed_over"]
            trace["next"] = page["next"]
        return trace

    def explain_filter(
        self,
        wanted: Mapping[str, Any] | Sequence[Any] | Id,
        event: Mapping[str, Any] | int,
        *,
        bus: str = "default",
    ) -> Document:
        """Why an event passes a filter, or the filter of a subscription of yours (its id), or does not.

        event: a CloudEvent, or the sequence of one on the bus. The answer has `passed`, the `explanation` clause by
        clause, and where it passes the `arguments` that the function would be called with, or `input_error`.
        """
        tried = {"event": whole_event(event)} if isinstance(event, Mapping) else {"sequence": event, "bus": bus}
        return self._http.document(
            "POST", "filters/explain", body={**filter_or_subscription(wanted), **tried}, repeatable=True
        )

    def backtest_filter(
        self,
        wanted: Mapping[str, Any] | Sequence[Any] | Id,
        *,
        since: datetime | None = None,
        samples: int = 10,
        bus: str = "default",
    ) -> Document:
        """What a filter (or that of a subscription) would have matched since a time, by default for a day.

        Gives how many events were `scanned` and `matched`, and the first ones as `samples`. Nothing runs.
        """
        body = {**filter_or_subscription(wanted), "bus": bus, "samples": samples}
        if since is not None:
            body["since"] = since.astimezone().isoformat()
        found: Document = {"scanned": 0, "matched": 0, "samples": []}
        while True:
            page = self._http.request("POST", "filters/backtest", body=body, repeatable=True)
            found["scanned"] += page["scanned"]
            found["matched"] += page["matched"]
            found["samples"] += page["samples"][: samples - len(found["samples"])]
            if page["next"] is None:
                return found
            body["after"] = page["next"]
