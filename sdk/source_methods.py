"""The methods of `Client` about what publishes events by itself: schedules and webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.sdk.documents import Document, Id, body_of, given, id_text, items
from headrace.sdk.http import Http


class SourceMethods:
    """What a client says of sources of events; whoever inherits it has `_http`."""

    _http: Http

    def create_schedule(self, schedule: Mapping[str, Any]) -> Document:
        """Publish an event at given times; gives the schedule with its `schedule_id`. See `schedule-request.json`."""
        return self._http.document("POST", "schedules", body=body_of(schedule, "schedule"))

    def get_schedule(self, schedule_id: Id) -> Document:
        """One schedule: what was asked for, its last tick and its next one."""
        return self._http.document("GET", f"schedules/{id_text(schedule_id, 'schedule_id')}")

    def list_schedules(self) -> list[Document]:
        """The schedules that belong to whoever asks, newest first."""
        return items(self._http.request("GET", "schedules"), "schedules")

    def pause_schedule(self, schedule_id: Id) -> Document:
        """Let a schedule rest; gives the schedule. Ticks that would come meanwhile are none."""
        return self._change_schedule(schedule_id, {"paused": True})

    def resume_schedule(self, schedule_id: Id) -> Document:
        """Let a paused schedule go on from now; gives the schedule."""
        return self._change_schedule(schedule_id, {"paused": False})

    def preview_schedule(self, schedule: Id | Mapping[str, Any], count: int = 10) -> list[Document]:
        """The next ticks, 1 000 at most, of a schedule or of what could be one: `scheduled` and `due` times of each."""
        if isinstance(schedule, Mapping):
            answer = self._http.request(
                "POST", "schedules/preview", body=body_of(schedule, "schedule"), query={"count": count}
            )
        else:
            path = f"schedules/{id_text(schedule, 'schedule_id')}/preview"
            answer = self._http.request("GET", path, query={"count": count})
        return items(answer, "ticks")

    def delete_schedule(self, schedule_id: Id) -> None:
        """Remove a schedule. Events that it has published stay."""
        self._http.request("DELETE", f"schedules/{id_text(schedule_id, 'schedule_id')}")

    def _change_schedule(self, schedule_id: Id, change: Mapping[str, Any]) -> Document:
        path = f"schedules/{id_text(schedule_id, 'schedule_id')}"
        return self._http.document("PATCH", path, body=body_of(change, "change"))

    def create_hook(self, hook: Mapping[str, Any]) -> Document:
        """Make a webhook, an address at which another system announces what happens (`kind`: `github`, `generic` or
        `cloudevents`); gives it with its `url` and its `secret`, which is shown only now."""
        return self._http.document("POST", "hooks", body=body_of(hook, "hook"))

    def get_hook(self, hook_id: Id) -> Document:
        """One webhook, without its secret."""
        return self._http.document("GET", f"hooks/{id_text(hook_id, 'hook_id')}")

    def list_hooks(self) -> list[Document]:
        """The webhooks that belong to whoever asks, without their secrets."""
        return items(self._http.request("GET", "hooks"), "hooks")

    def rotate_hook_secret(self, hook_id: Id, secret: str | None = None) -> Document:
        """Give a webhook another secret, a random one or this; `secret` in the answer is shown only now. The one
        before is worth nothing from here on."""
        body = given(secret=secret)
        return self._http.document("POST", f"hooks/{id_text(hook_id, 'hook_id')}/secret", body=body)

    def delete_hook(self, hook_id: Id) -> None:
        """Remove a webhook; what is sent to its address is refused from now on."""
        self._http.request("DELETE", f"hooks/{id_text(hook_id, 'hook_id')}")
