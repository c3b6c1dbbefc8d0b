"""Actions that are made of tasks: start them once, say how far they are, end them. A provider of such actions derives
from `TaskProvider`, and says what a body asks for and what its details show.

An action is its record and the bundles of its tasks. The bundles' ids are written into the record before anything is
submitted, so whoever repeats the request after a crash submits the same bundles, which then run once.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import msgspec

from headrace.action_provider.auth.callers import Caller
from headrace.action_provider.cancelling import is_up
from headrace.action_provider.errors import NotFound, ServiceError
from headrace.action_provider.providers.action_tasks import ActionTask
from headrace.action_provider.providers.outcome import (
    Outcome,
    failure_of,
    lists_of_values,
    outcome_of,
    progress_of,
)
from headrace.action_provider.providers.provider import (
    CANCELLED,
    TOO_LATE,
    ActionRow,
    Ending,
    Provider,
    ProviderAddress,
)
from headrace.action_provider.providers.requests import ActionRequest
from headrace.action_provider.providers.starts import start
from headrace.action_provider.providers.task_log import log_entries
from headrace.action_provider.providers.task_plans import Asked, Share, planned, planned_again, record_of
from headrace.action_provider.providers.task_results import TaskResults, forget_tasks
from headrace.action_provider.providers.task_stopping import stop
from headrace.action_provider.providers.value_references import References, keep_whole, refers, without_whole
from headrace.action_provider.state import Service
from headrace.action_provider.together import together
from headrace.bus.errors import QueueFull, StreamFull
from headrace.bus.store.actions import ActionRecord, Start
from headrace.bus.tasks.results import ResultWatch, news_subjects
from headrace.bus.tasks.task_views import started

_ABOUT_S: Final = 1.0
"""How far the clocks of endpoints may be off."""

_OFFLINE_AFTER_S: Final = 2.0


class TaskProvider(Provider, abc.ABC):
    """A provider whose actions are made of tasks. It keeps nothing of its own."""

    @abc.abstractmethod
    async def asked(self, service: Service, caller: Caller, at: ProviderAddress, request: ActionRequest) -> Asked:
        """The tasks that a body asks for; at least one. Raises `ServiceError`, which names the field."""

    def values(self, tasks: Sequence[ActionTask]) -> dict[str, Any]:
        """The part of the `details` of an ended action that shows its values: `result` and `results`."""
        return lists_of_values(tasks)

    async def run(self, service: Service, caller: Caller, at: ProviderAddress, request: ActionRequest) -> Start:
        """Start the tasks, once for each request id of the caller, and wait a little for a quick end."""
        actions = service.tables.actions
        try:
            asked = await self.asked(service, caller, at, request)
            shares = await planned(service, caller, at, request, asked)
        except (ServiceError, QueueFull):
            # A repetition is answered even when the function or the endpoint has gone since, or the queue is full.
            found = await actions.of_request(at.path, caller.principal, request.request_id)
            if request.resumes is not None or found is None or found.value.request_digest != request.digest:
                raise
            return Start(await self.status(service, found), created=False)
        begun = await start(service, request, await record_of(service, at, caller, request, asked, shares))
        if begun.created:
            return Start(await self._submit(service, begun.record, shares), created=True)
        return Start(await self._again(service, begun.record, shares), created=False)

    async def status(self, service: Service, action: ActionRow) -> ActionRow:
        """The action as its results say."""
        if action.value.final and action.value.details is not None:
            return action
        results = TaskResults.of(service, action.value)
        await results.catch_up(service.connection)
        return await self._seen(service, action, results)

    async def cancel(self, service: Service, action: ActionRow, why: Ending = CANCELLED) -> ActionRow:
        """Stop what has not ended. The action is FAILED from now on, whatever its tasks still do."""
        action = await self.status(service, action)
        if action.value.final:
            return action
        return await self._give_up(service, action, why)

    async def release(self, service: Service, action: ActionRow) -> None:
        """Remove what is stored of its tasks, unless somebody else may want it: they joined a group that the caller
        named, or the details, which a later step may read, say where a value is."""
        if not action.value.group_named and not refers(action.value.details):
            await forget_tasks(service, action.value)

    async def log(self, service: Service, action: ActionRow) -> list[dict[str, Any]]:
        """What happened to its tasks."""
        results = TaskResults.of(service, action.value)
        await results.catch_up(service.connection)
        running: Mapping[UUID, float] = {}
        if not results.complete:
            address = results.collectors[0].address
            running = await started(service.connection, address.principal, address.group)
        return log_entries(results, running)

    def news(self, action: ActionRecord) -> tuple[str, ...]:
        """Where results of its tasks are heard of."""
        bundles = (bundle for work in action.works for bundle in work.submitted(action.creator))
        return tuple(news_subjects(bundle.address for bundle in bundles))

    async def _again(self, service: Service, found: ActionRow, shares: Sequence[Share]) -> ActionRow:
        """A repeated request: what its first life may have left undone is done, once."""
        action = await self.status(service, found)
        if action.value.final:
            return action
        again = planned_again(service, shares, action.value)
        return await self._submit(service, found, again) if again else action

    async def _submit(self, service: Service, action: ActionRow, shares: Sequence[Share]) -> ActionRow:
        """Store the tasks and wait a little for their end. Two equal calls, also at once, have the effect of one."""
        results = TaskResults.of(service, action.value)
        plans = [share.plan for share in shares]
        repeated = any(plan.submission.retry for plan in plans)
        async with ResultWatch(service.connection, results.collectors, confirmed=False) as watch:
            await service.tables.actions.publish_id(action)
            await together(*(plan.store(service.connection, service.keys, service.lanes) for plan in plans))
            if repeated:
                await watch.catch_up()
            await watch.until_complete(service.settings.run_wait_s)
        if not repeated:
            service.metrics.tasks.labels("action").inc(len(results.places))
        return await self._seen(service, action, results)

    async def _seen(self, service: Service, action: ActionRow, results: TaskResults) -> ActionRow:
        """The action with what its results say; the end, if this is one, never changes from here on."""
        record = action.value
        if record.final:
            return action if record.details is not None else self._with_details(service, action, results)
        if results.complete:
            ended_at = results.last_stored_at or time.time()
            end = self._end(service, record, results)
            return await _finish(service, action, results, end, max(ended_at, record.started_at))
        running = await started(service.connection, record.creator, results.group)
        offline = () if running else await _offline(service, record, results)
        progress = progress_of(results, running, offline)
        value = msgspec.structs.replace(record, details=progress.details, display_status=progress.display_status)
        return replace(action, value=value)

    def _end(self, service: Service, record: ActionRecord, results: TaskResults) -> Outcome:
        references = References.of(service)
        late = record.deadline is not None and results.last_stored_at > record.deadline - _ABOUT_S
        if late and results.has("expired"):  # of another limit, tasks are expired before
            return failure_of(results, self.values, references, TOO_LATE)
        # Whoever keeps the deadline cancels the tasks first: somebody else may see that before the end is written.
        if record.deadline is not None and results.last_stored_at > record.deadline and results.has("cancelled"):
            return failure_of(results, self.values, references, TOO_LATE)
        return outcome_of(results, self.values, references)

    def _with_details(self, service: Service, action: ActionRow, results: TaskResults) -> ActionRow:
        """An action that ended under an earlier release, which did not keep large details in the record."""
        if results.complete:
            details = outcome_of(results, self.values, References.of(service)).details
        else:
            details = {"description": "The results were too large to be kept with the action, and have expired"}
        return replace(action, value=msgspec.structs.replace(action.value, details=details))

    async def _give_up(self, service: Service, action: ActionRow, why: Ending) -> ActionRow:
        """Cancel what has not ended, by force, and end the action."""
        results = TaskResults.of(service, action.value)
        await results.catch_up(service.connection)
        # First the order to stop, then the end: a crash in between leaves an action that can be cancelled again.
        if not results.complete:
            await stop(service, results, within_s=service.settings.run_wait_s)
        if results.complete and not results.has("cancelled", "expired"):
            return await self._seen(service, action, results)  # Too late: all of them had come to their end.
        outcome = failure_of(results, self.values, References.of(service), why)
        return await _finish(service, action, results, outcome, time.time())


async def _offline(service: Service, record: ActionRecord, results: TaskResults) -> list[UUID]:
    """The endpoints with tasks to do that are not there. Nothing is asked for a quick action: it ends before that."""
    if time.time() - record.started_at < _OFFLINE_AFTER_S:
        return []
    places = {each.address.endpoint: each.address for each in results.collectors if not each.complete}
    return sorted([endpoint for endpoint, address in places.items() if not await is_up(service, address)])


async def _finish(
    service: Service, action: ActionRow, results: TaskResults, outcome: Outcome, ended_at: float
) -> ActionRow:
    if outcome.whole:
        try:
            await keep_whole(service, action.value.creator, results, outcome.whole)
        except StreamFull:
            outcome = replace(outcome, details=without_whole(outcome.details))
    record = msgspec.structs.replace(
        action.value,
        status=outcome.status,
        display_status=outcome.display_status,
        details=outcome.details,
        ended_at=ended_at,
    )
    actions = service.tables.actions
    # What follows from results alone follows from them always. What was decided, or put elsewhere, is written first.
    follows = results.complete and not results.has("cancelled", "expired") and not outcome.whole
    finished = await (actions.finish_soon if follows else actions.finish)(action, record)
    if finished is None:
        raise NotFound(f"the action {record.action_id!r} was released in this moment")
    return finished
