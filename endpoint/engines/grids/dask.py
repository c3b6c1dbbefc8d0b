"""A Dask cluster: one that runs already, known by the address of its scheduler, or one of the pool's own.

The cluster's workers need headrace, at the pool's version. A Dask worker hosts a process for each of its threads, in
which calls run: see `headrace.endpoint.engines.grids.host`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from headrace.endpoint.engines.engine import Call
from headrace.endpoint.engines.grids import host
from headrace.endpoint.engines.grids.control import Printed
from headrace.endpoint.engines.grids.courier import Courier, once_name
from headrace.endpoint.engines.grids.grid import Ending, OnPrinted, Piece, PlaceLost, settle
from headrace.endpoint.engines.settings import DaskSettings

logger = logging.getLogger(__name__)

_AHEAD = 3
_MOST_TOGETHER = 64

_LOOK_S = 1.0
_FIRST_LOOK_S = 0.02
_CONNECT_S = 10.0
_FIRST_BACK_OFF_S = 0.5
_LONGEST_BACK_OFF_S = 30.0
_LEAVE_S = 1.5
_SMALL_BYTES = 100_000


class DaskGrid:
    """The threads of a Dask cluster's workers. `workers` is how many a cluster of the pool's own has."""

    def __init__(self, settings: DaskSettings, courier: Courier, *, workers: int) -> None:
        self._settings = settings
        self._courier = courier
        self._workers = settings.max_workers or workers
        self.slots = self.most = 0
        self.ahead = _AHEAD
        self.most_together = _MOST_TOGETHER
        self.broken = ""
        self._client: Any = None
        self._cluster: Any = None
        self._unfinished: set[UUID] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._keeping: asyncio.Task[None] | None = None

    async def start(self, on_change: Callable[[], None], on_printed: OnPrinted) -> None:
        """Begin to connect."""
        self._on_change, self._on_printed = on_change, on_printed
        self._courier.open()
        self._keeping = asyncio.get_running_loop().create_task(self._keep(), name="keep-dask")

    def submit(self, errands: Sequence[tuple[Call, int]]) -> list[asyncio.Future[Ending]]:
        """Give calls to the cluster."""
        if self._client is None or self._client.status != "running":
            self.slots = 0  # until the next look: a call is given up that is lost too often
            raise PlaceLost("the connection to the Dask scheduler is lost")
        call, attempts = errands[0]
        once = "" if call.options.rerun_on_loss else once_name(call.key, attempts)
        parcel = self._courier.parcel(errands)
        # The pool's own: another one on the same cluster may be given the call while the scheduler still knows ours.
        name = f"headrace-{self._courier.pool}-{call.key}-{attempts}"
        future = self._client.submit(run, parcel, once, self._courier.pool, key=name, pure=False)
        endings: list[asyncio.Future[Ending]] = [asyncio.get_running_loop().create_future() for _ in errands]
        keys = [call.key for call, _ in errands]
        self._unfinished.update(keys)
        self._spawn(self._deliver(keys, endings, self._ended(future, once)))
        return endings

    def want(self, calls: int) -> None:
        """Who keeps the cluster says how large it is."""

    def kill(self, keys: Iterable[UUID]) -> None:
        """End calls on whichever workers they are."""
        killed = [key.bytes for key in keys if key in self._unfinished]
        if killed and self._client is not None:
            self._spawn(self._killed(killed))

    def pids(self) -> list[int]:
        """Unknown: they belong to the hosts, and end with them."""
        return []

    async def stop(self) -> None:
        """Leave the cluster, and end it if it is ours."""
        self.slots = self.most = 0
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                while killing := [task for task in self._tasks if task.get_name() == "kill"]:
                    await asyncio.wait(killing)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await self._close()
        host.close_all(self._courier.terms)
        self._courier.close()

    # The cluster

    async def _keep(self) -> None:
        back_off_s = _FIRST_BACK_OFF_S
        while True:
            has_worked = False
            try:
                await self._open()
                has_worked, back_off_s = True, _FIRST_BACK_OFF_S
                await self._watch()
                problem = "the connection to the Dask scheduler is lost"
            except ImportError as error:
                problem = f"Dask cannot be loaded ({error}): install headrace[dask]"
            except Exception as error:
                where = self._settings.address or "a cluster of its own"
                problem = f"the Dask cluster ({where}) cannot be used: {type(error).__name__}: {error}"
            logger.error("%s; trying again in %g s.", problem, back_off_s, extra={"action": "dask_lost"})
            # What was there may only be starting again: tasks wait for it, and fail when it does not come back.
            self._set(0, "" if has_worked else problem)
            with contextlib.suppress(Exception):
                await self._close()
            await asyncio.sleep(back_off_s)
            back_off_s = min(_LONGEST_BACK_OFF_S, back_off_s * 2)

    async def _open(self) -> None:
        client_of, cluster_of, security = await asyncio.to_thread(_load, self._settings)
        address: Any = self._settings.address
        if address is None:
            address = self._cluster = await _own_cluster(cluster_of, self._workers)
        self._client = await client_of(
            address, asynchronous=True, security=security, timeout=_CONNECT_S, set_as_default=False
        )
        self._client.subscribe_topic(_topic_of(self._courier.pool), self._printed)

    async def _watch(self) -> None:
        """Look how many threads there are, until the connection is lost."""
        look_s = _FIRST_LOOK_S
        while self._client.status in ("running", "connecting", "newly-created"):
            threads = 0
            if self._client.status == "running":
                threads = sum((await self._client.nthreads()).values())
            self._set(min(threads, self._settings.max_workers or threads), "")
            await asyncio.sleep(look_s)
            look_s = min(_LOOK_S, 1.2 * look_s)

    def _set(self, slots: int, broken: str) -> None:
        if (slots, broken) != (self.slots, self.broken):
            self.slots, self.broken = slots, broken
            # While the cluster has none, what is here waits for the first to come.
            self.most = max(slots, 1)
            self._on_change()

    async def _close(self) -> None:
        client, self._client = self._client, None
        cluster, self._cluster = self._cluster, None
        if client is not None:
            with contextlib.suppress(Exception):  # the scheduler is gone, or lets nobody do that
                await client.run_on_scheduler(_forgetting(_topic_of(self._courier.pool)))
            await client.close()
        if cluster is not None:
            await cluster.close()

    # Calls

    async def _deliver(
        self, keys: list[UUID], endings: list[asyncio.Future[Ending]], reply: Coroutine[Any, Any, list[Ending]]
    ) -> None:
        try:
            found: list[Ending | PlaceLost] = list(await reply)
        except PlaceLost as error:
            found = [error] * len(keys)
        self._unfinished.difference_update(keys)
        for future, ending in zip(endings, found, strict=True):
            settle(future, ending)

    async def _ended(self, future: Any, once: str) -> list[Ending]:
        try:
            reply = await future
        except asyncio.CancelledError:
            if not future.cancelled():
                raise
            raise PlaceLost("the connection to the Dask scheduler was lost while the task ran") from None
        except ImportError as error:
            raise PlaceLost(f"the Dask worker cannot run tasks: {error}; install headrace there") from error
        except Exception as error:
            raise PlaceLost(f"the Dask worker was lost while the task ran: {type(error).__name__}: {error}") from error
        finally:
            future.release()
            if once:
                self._spawn(self._forgotten(once))
        if reply is None:
            raise PlaceLost("the Dask worker was lost while the task ran")
        if len(reply) < _SMALL_BYTES:
            return self._courier.endings(reply)
        return await asyncio.to_thread(self._courier.endings, reply)

    def _printed(self, event: tuple[float, Any]) -> None:
        """A worker tells of what a call prints. Whoever uses the cluster may write there, whatever they like."""
        try:
            found = msgspec.convert(event[1], Printed)
            self._on_printed(UUID(bytes=found.key), found.worker, found.piece)
        except (msgspec.ValidationError, ValueError, IndexError):
            logger.debug("Somebody has written into the pool's topic what is no output of a task.")

    async def _killed(self, keys: list[bytes]) -> None:
        task = asyncio.current_task()
        if task is not None:
            task.set_name("kill")
        with contextlib.suppress(Exception):  # a worker that cannot be reached has lost the call as well
            await self._client.run(host.kill, self._courier.terms, keys, on_error="ignore")

    async def _forgotten(self, once: str) -> None:
        from distributed import Event

        with contextlib.suppress(Exception):
            await Event(once, client=self._client).clear()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name="dask")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _load(settings: DaskSettings) -> tuple[Any, Any, Any]:
    """What is needed of Dask, which takes a second to load. Raises `ImportError`."""
    from distributed import Client, LocalCluster
    from distributed.security import Security

    logging.getLogger("distributed").setLevel(logging.WARNING)
    if settings.tls_ca_file is None:
        return Client, LocalCluster, None
    security = Security(
        tls_ca_file=settings.tls_ca_file,
        tls_client_cert=settings.tls_client_cert,
        tls_client_key=settings.tls_client_key,
        require_encryption=True,
    )
    return Client, LocalCluster, security


async def _own_cluster(cluster_of: Any, threads: int) -> Any:
    """A cluster in this process: the calls have processes of their own. It shows nothing of itself by HTTP."""
    import dask

    with dask.config.set({"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}):
        return await cluster_of(
            n_workers=1,
            threads_per_worker=threads,
            processes=False,
            dashboard_address="127.0.0.1:0",
            asynchronous=True,
        )


def run(parcel: bytes, once: str, pool: str) -> bytes | None:
    """Run calls of a pool on a Dask worker. `once` names the start of one that must not run twice: None if it has."""
    from distributed import Event, get_worker

    if once:
        # The scheduler starts a task again whose worker died, without asking.
        started = Event(once)
        if started.is_set():
            return None
        started.set()
    worker = get_worker()
    return host.run_among_others(parcel, workers=worker.state.nthreads, tell=functools.partial(_tell, worker, pool))


def _tell(worker: Any, pool: str, key: UUID, name: str, piece: Piece) -> None:
    """Tell a pool what a running call prints, by way of the scheduler: as its result will go."""
    worker.log_event(_topic_of(pool), [key.bytes, name, list(piece)])


def _topic_of(pool: str) -> str:
    return f"headrace-{pool}"


def _forgetting(topic: str) -> Callable[..., None]:
    """A function that goes to the scheduler by value (it may not have Headrace): drop what it remembers of a topic."""

    def forget(dask_scheduler: Any) -> None:
        dask_scheduler._broker.truncate(topic)

    return forget
