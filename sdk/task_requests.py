"""What takes more than one request about tasks: to wait for one, to read a large value, to page, to cancel many."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from headrace.sdk import errors
from headrace.sdk.cancelling import MOST_AT_ONCE
from headrace.sdk.documents import Document
from headrace.sdk.http import Http
from headrace.sdk.outcomes import error_of_document
from headrace.sdk.payloads import temporary_file

_LONGEST_POLL_S: Final = 20.0
_UNFINISHED: Final = ("pending", "running")


class TaskRequests:
    """See the methods of `Client`, which check what they are given. Ids are those of `id_text`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def get(self, task_id: str, wait_s: float | None) -> Document:
        """A task once it has ended, or after `wait_s`."""
        until = time.monotonic() + (wait_s or 0.0)
        while True:
            poll_s = min(max(until - time.monotonic(), 0.0), _LONGEST_POLL_S)
            query = {"wait": f"{poll_s:.3f}s"} if poll_s else None
            answer: Document = self._http.request("GET", f"tasks/{task_id}", query=query, wait_s=poll_s)
            if answer["state"] not in _UNFINISHED or time.monotonic() >= until:
                return answer

    def value(self, task_id: str, wait_s: float | None) -> Any:
        """The value of a task. Raises what stands in its place."""
        answer = self.get(task_id, wait_s)
        state = answer["state"]
        if state in _UNFINISHED:
            raise errors.TaskPending(task_id, state)
        if state != "succeeded":
            raise error_of_document(answer)
        if "result_reference" in answer:
            return self._large_value(answer["result_reference"])
        if "result" not in answer:
            # An Executor asked for it in Python's own form, which the service does not unpickle.
            raise errors.ResultNotSerialisable(f"JSON cannot carry this: {answer.get('python_object')}")
        return answer["result"]

    def pages(self, query: Document, path: str = "tasks") -> Iterator[Document]:
        """The tasks of a list, page after page."""
        while True:
            answer: Document = self._http.request("GET", path, query=query)
            yield from answer["tasks"]
            if "marker" not in answer:
                return
            query = {**query, "marker": answer["marker"]}

    def cancel_group(self, group: str, named: Sequence[str] | None, *, force: bool) -> Document:
        """Cancel tasks of a group, those that are named or all; the answers of all requests in one."""
        if named is None:
            answers = [self._cancel(group, {"force": force})]
            while "after" in answers[-1]:
                answers.append(self._cancel(group, {"force": force, "after": answers[-1]["after"]}))
        else:
            pages = (named[start : start + MOST_AT_ONCE] for start in range(0, len(named), MOST_AT_ONCE))
            answers = [self._cancel(group, {"task_ids": page, "force": force}) for page in pages]
        return {"task_group_id": group, **_together(answers)}

    def cancel_at(self, endpoint: str, body: Document) -> Document:
        """Cancel tasks at an endpoint; the answers of all requests in one."""
        answers: list[Document] = []
        while not answers or "after" in answers[-1]:
            more = {"after": answers[-1]["after"]} if answers else {}
            path = f"endpoints/{endpoint}/tasks/cancel"
            answers.append(self._http.request("POST", path, body={**body, **more}, repeatable=True))
        return {"endpoint_id": endpoint, **_together(answers)}

    def _cancel(self, group: str, body: Document) -> Document:
        return self._http.document("POST", f"task-groups/{group}/cancel", body=body, repeatable=True)

    def _large_value(self, reference: Document) -> Any:
        with temporary_file() as file:
            digest = hashlib.sha256()

            def write(piece: bytes) -> None:
                digest.update(piece)
                file.write(piece)

            self._http.receive_stream(reference["href"], write)
            if digest.hexdigest() != reference["sha256"]:
                raise errors.ObjectDamaged(f"the result came with the SHA-256 {digest.hexdigest()}")
            file.seek(0)
            return json.load(file)


def _together(answers: Sequence[Document]) -> Document:
    """What several cancellations found, in one."""
    states: Counter[str] = Counter()
    for answer in answers:
        states.update(answer["states"])
    return {
        "found": sum(answer["found"] for answer in answers),
        "states": dict(states),
        "running": [task for answer in answers for task in answer["running"]],
    }
