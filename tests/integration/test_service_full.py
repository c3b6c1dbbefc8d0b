"""A store that is full: told as such, and nothing else stops working."""

from __future__ import annotations

import pytest
from service import running_service

from headrace.bus.store.streams import StreamSettings


def test_a_full_stream_refuses_the_submission_and_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    small = StreamSettings(tasks_bytes=50_000)
    with running_service(tmp_path_factory.mktemp("full"), streams=small) as service:
        http = service.http()
        endpoint_id, _ = service.add_endpoint()
        body = {"function_id": service.add_function(), "args": ["x" * 10_000]}
        answers = [http.post(f"/api/v1/endpoints/{endpoint_id}/tasks", json=body) for _ in range(6)]
        assert answers[0].status_code == 202
        refused = answers[-1]
        assert refused.status_code == 507
        assert refused.json()["code"] == "StreamFull"
        assert "store is full; nothing was stored" in refused.json()["detail"]
        assert refused.headers["retry-after"]
        # What was taken is still there, and what needs no room goes on.
        task_id = answers[0].json()["tasks"][0]["task_id"]
        assert http.get(f"/api/v1/tasks/{task_id}").json()["state"] == "pending"
        # Room comes back when what is queued goes.
        http.delete(f"/api/v1/endpoints/{endpoint_id}")
        other, _ = service.add_endpoint("other")
        assert http.post(f"/api/v1/endpoints/{other}/tasks", json=body).status_code == 202


def test_a_call_that_is_larger_than_a_message_is_refused_with_the_limit(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with running_service(tmp_path_factory.mktemp("large")) as service:
        endpoint_id, _ = service.add_endpoint()
        body = {"function_id": service.add_function(), "args": ["x" * 9_000_000]}
        answer = service.http().post(f"/api/v1/endpoints/{endpoint_id}/tasks", json=body)
        assert answer.status_code == 413
        assert "at most" in answer.json()["detail"]
