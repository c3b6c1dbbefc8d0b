"""What followed from an event, as a tree for a person at a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

_WORDS = {
    "unknown": "nothing is stored of it, yet or any more",
    "waiting": "waits for its time",
    "pending": "queued",
    "running": "running",
    "succeeded": "succeeded",
    "failed": "failed; what follows is not stored yet",
    "dead": "given up",
}
_MOST = 160

Document = dict[str, Any]
_Lines = Iterator[str]


def tree(trace: Document) -> _Lines:
    """The lines of a trace."""
    yield from _event(trace)
    branches = [_subscription(each) for each in trace["subscriptions"]]
    if not branches:
        branches = [iter(["no subscription of yours matched"])]
    yield from _below(branches)
    if trace["passed_over"]:
        count = trace["passed_over"]
        yield f"({count} other subscription{'s' if count > 1 else ''} did not match)"


def _event(trace: Document) -> _Lines:
    stored = trace["stored"]
    if stored is None:
        yield f"Event {trace['id']} of {trace['source']}: not found on the bus {trace['bus']!r} (any more)"
        return
    event = stored["event"] or {}
    yield f"Event {trace['id']} of {trace['source']} ({event.get('type', 'unreadable')})"
    by = f" by {stored['published_by']}" if stored.get("published_by") else ""
    yield f"stored {stored['stored_at']} as number {stored['sequence']} of the bus {trace['bus']!r}{by}"


def _subscription(tried: Document) -> _Lines:
    matched = {True: "matched", False: "did not match", None: "matched, as far as can be said"}[tried["matched"]]
    yield f"{tried['name']} ({tried['subscription_id']}) {matched}"
    branches = [_delivery(each) for each in tried["deliveries"]]
    if tried["explanation"] is not None:
        branches.insert(0, _clause(tried["explanation"]))
    if tried["joined"] is not None:
        branches.append(_announced(tried["joined"], "joined with others"))
    elif tried["is_part"] and tried["matched"] and not tried["deliveries"]:
        branches.append(iter(["waits for others to join, or is none of those that do"]))
    yield from _below(branches)


def _clause(clause: Document) -> _Lines:
    found = f"  (the event has {clause['found']})" if clause.get("found") else ""
    yield _short(f"{'yes' if clause['passed'] else 'no'}: {clause['clause']}{found}")
    yield from _below([_clause(part) for part in clause.get("parts", ())])


def _delivery(delivery: Document) -> _Lines:
    replayed = f"replay {delivery['replay_id']}: " if delivery.get("replay_id") else ""
    # A sink has none, and neither has what was given up before the event had named one.
    place = f", at endpoint {delivery['endpoint_id']}" if delivery["endpoint_id"] else ""
    yield f"{replayed}{_WORDS[delivery['state']]}{place}"
    branches = [_attempt(each) for each in delivery["attempts"]]
    branches += [
        iter([_short(f"delivered anew {each['at']} after {each['code']}: {each['reason']}")])
        for each in delivery["redrives"]
    ]
    letter = delivery["dead_letter"]
    if letter is not None:
        named = f"dead letter {letter['dead_letter_id']}, {letter['created_at']}, {letter['code']}"
        branches.append(iter([named, _short(f"   {letter['reason']}")]))
    if delivery["announced"] is not None:
        branches.append(_announced(delivery["announced"]))
    yield from _below(branches)


def _announced(announced: Document, how: str = "announced") -> _Lines:
    yield f"{how} {announced['stored_at']} as number {announced['sequence']} of the bus {announced['bus']!r}:"
    if announced["trace"] is not None:
        yield from _below([tree(announced["trace"])])
    else:
        yield from _below([iter([f"Event {announced['id']} of {announced['source']} ({announced['type']})"])])


def _attempt(attempt: Document) -> _Lines:
    when = attempt.get("ended_at") or attempt.get("started_at") or attempt.get("stored_at") or ""
    if attempt["state"] == "waiting":
        yield f"attempt {attempt['attempt']}: due {attempt.get('due_at', '')}"
        return
    yield f"attempt {attempt['attempt']}: {attempt['state']} {when}  task {attempt['task_id']}"
    if attempt.get("error"):
        yield _short(f"   {attempt['error']}: {attempt.get('message', '')}")


def _below(branches: Sequence[_Lines]) -> _Lines:
    """Branches below a line, each with its sign."""
    for place, branch in enumerate(branches):
        first, rest = ("└─ ", "   ") if place == len(branches) - 1 else ("├─ ", "│  ")
        for number, line in enumerate(branch):
            yield f"{rest if number else first}{line}"


def _short(text: str) -> str:
    line = json.dumps(text, ensure_ascii=False)[1:-1] if "\n" in text else text
    return line if len(line) <= _MOST else f"{line[: _MOST - 1]}…"
