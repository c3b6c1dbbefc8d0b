"""The durable consumers of lanes: made, made again, moved, and what the NATS server knows of each.

Their state lies in memory. In a file, the server writes and syncs it twice for every bundle, and with many busy
endpoints that was most of what a task cost. So a consumer is gone when its server has been restarted, and the one
that is made in its place gives every bundle of its lane again: also what a pool has in its hands. Hence a mark on each
consumer that was *remade*: up to which sequence bundles may have been taken by somebody before. It lies in the
consumer's own metadata, so that it comes and goes with it, and whoever makes it first decides it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from headrace.bus.errors import BusError, BusUnavailable, ConsumerOverlaps, StreamFull, StreamMissing
from headrace.bus.names import lane_tasks
from headrace.bus.nats.connection import Connection
from headrace.bus.store.models import LaneRecord
from headrace.bus.store.streams import ensure_consumer

ACK_WAIT_S: Final = 1.75
"""What a pool held when it died runs again after this. Pools say four times in it that they live."""

_MAX_ACK_PENDING = 4096
_REMADE: Final = "headrace_remade_up_to"


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How many bundles of a lane are unfinished: those that wait, and those that a pool has in hand."""

    waiting: int = 0
    taken: int = 0

    @property
    def used(self) -> int:
        """Both together."""
        return self.waiting + self.taken

    def __add__(self, other: Depth) -> Depth:
        return Depth(waiting=self.waiting + other.waiting, taken=self.taken + other.taken)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneState:
    """What the NATS server knows of a lane."""

    depth: Depth = Depth()
    taken_up_to: int = 0
    """The highest sequence that may have been given to a pool so far."""
    remade_up_to: int = 0
    """Up to this sequence bundles may have been taken from an earlier consumer of the lane; 0: there was none."""
    requests: int = 0
    """How many requests for bundles wait: none when no pool is there, or a full one."""
    in_memory: bool = True
    now: float
    """When this was so: unix seconds, the server's clock."""

    @classmethod
    def of(cls, info: dict[str, Any]) -> LaneState:
        """Read the server's account of a consumer."""
        config = info["config"]
        remade_up_to = int((config.get("metadata") or {}).get(_REMADE, 0))
        return cls(
            depth=Depth(waiting=info["num_pending"], taken=info["num_ack_pending"]),
            taken_up_to=max(info["delivered"]["stream_seq"], remade_up_to),
            remade_up_to=remade_up_to,
            requests=info["num_waiting"],
            in_memory=bool(config.get("mem_storage")),
            now=moment_of(info),
        )


def moment_of(info: dict[str, Any]) -> float:
    """When the server said this: unix seconds, its clock."""
    return datetime.fromisoformat(info["ts"]).timestamp()


async def find_state(connection: Connection, lane: LaneRecord) -> LaneState | None:
    """What the server knows of a lane's consumer; None when there is none. Raises `BusUnavailable`."""
    with contextlib.suppress(StreamMissing):
        return LaneState.of(await connection.api(f"CONSUMER.INFO.TASKS.{lane.consumer}"))
    return None


async def make(connection: Connection, lane: LaneRecord, *, remade_up_to: int = 0) -> LaneState:
    """Make a lane's consumer; the one that another service has made meanwhile stays as it is.

    Raises `ConsumerOverlaps` when one of another name takes from the lane, and `BusError`.
    """
    options: dict[str, Any] = {"mem_storage": True}
    if remade_up_to:
        options["metadata"] = {_REMADE: str(remade_up_to)}
    try:
        info = await ensure_consumer(
            connection,
            "TASKS",
            lane.consumer,
            filter_subjects=(lane_tasks(lane.endpoint_id, lane.pool, lane.principal),),
            ack_wait_s=ACK_WAIT_S,
            max_ack_pending=_MAX_ACK_PENDING,
            options=options,
            action="create",
        )
    except (ConsumerOverlaps, BusUnavailable, StreamFull):
        raise
    except BusError:
        # With another mark, or of an earlier release, in a file: neither can be changed.
        state = await find_state(connection, lane)
        if state is None:
            raise
        return state
    return LaneState.of(info)
