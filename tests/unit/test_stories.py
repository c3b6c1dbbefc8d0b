from __future__ import annotations

import uuid

from headrace.bus.eventing.deliveries import Delivery, FailedAttempt
from headrace.bus.eventing.subscriptions import SubscriptionRecord
from headrace.bus.eventing.traces.stories import AttemptStory, Story


def test_an_event_that_the_function_reported_has_failed_although_its_task_succeeded() -> None:
    endpoint, subscription, task = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    record = SubscriptionRecord(
        subscription_id=subscription,
        name="batches",
        owner="urn:headrace:user:ada",
        filter={},
        function_id=uuid.uuid4(),
        endpoint_id=endpoint,
        created_at=0.0,
    )
    delivery = Delivery(subscription, "default", 7, "/lab", "13")
    story = Story(record=record, delivery=delivery, places=[endpoint])

    story.tell([(delivery, AttemptStory(1, task, endpoint, "succeeded"))])
    story.remember([FailedAttempt(1, task, "failed", "BatchItemFailure", "reported")])

    assert [(each.state, each.error) for each in story.attempts] == [("failed", "BatchItemFailure")]
    assert story.state == "failed"
