"""A client under test, as a process of its own: submits, or takes a group over, and writes down all it sees.

    python load_client.py '{"mode": "submit" | "attach", …}'

It ends in order when the file `stop` appears: then every future must have its end within `deadline_s`, else the
process ends with status 3 and writes which ones hang.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

from headrace.bus.nats.connection import Connection
from headrace.schemas import HeadraceError
from headrace.sdk import Client, Executor
from headrace.sdk.future import TaskFuture

SHORT, LONG, ONCE, ONCE_LONG = "short", "long", "once", "once-long"


def leave_a_trace(path: str, number: int, seconds: float) -> list[Any]:
    """The task: its effect is a line, written at once and whole."""
    import os
    import time
    import uuid

    run = uuid.uuid4().hex[:16]
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{number} {run} {time.time():.6f} {seconds}\n".encode())
    finally:
        os.close(descriptor)
    time.sleep(seconds)  # what a short and a long task differ in
    return [number, run]


class Journal:
    """Lines of JSON that outlive the process which writes them."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, **fields: Any) -> None:
        os.write(self._descriptor, (json.dumps({"at": time.time(), **fields}) + "\n").encode())


def record_acknowledgements(journal: Journal) -> None:
    """Write down each bundle that the store has acknowledged, at the moment when the client learns of it."""
    store = Connection.store

    async def recorded(self: Connection, subject: str, *args: Any, **more: Any) -> Any:
        stored = await store(self, subject, *args, **more)
        journal.write(bundle=subject.rpartition(".")[2])
        return stored

    Connection.store = recorded  # type: ignore[method-assign]  # there is no other place to see it from outside


class LoadClient:
    """One client and what it has under way."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.directory = Path(settings["directory"])
        self.name = settings["name"]
        self.submitted = Journal(self.directory / f"{self.name}.submitted")
        record_acknowledgements(Journal(self.directory / f"{self.name}.acknowledged"))
        self.results = Journal(self.directory / f"{self.name}.results")
        self.random = random.Random(settings["seed"])  # noqa: S311 - a load, not a secret
        self.client = Client(settings["url"], settings["token"])
        self.numbers = iter(range(settings["first_number"], 1 << 60))
        self.open = 0
        self.changed = threading.Condition()
        self.futures: list[TaskFuture] = []

    def run(self) -> int:
        """Until told to stop; the exit status."""
        if self.settings["mode"] == "submit":
            self.submit_until_stopped()
        else:
            self.attach()
        return self.await_all()

    def executor(self, group: str) -> Executor:
        return Executor(self.settings["endpoint_id"], client=self.client, task_group_id=self.settings["groups"][group])

    def submit_until_stopped(self) -> None:
        normal, once = self.executor("normal"), self.executor("once").with_options(rerun_on_loss=False)
        while not (self.directory / "stop").exists():
            for _ in range(40):
                self.submit(normal, SHORT, 0.0)
            self.submit(once, ONCE, 0.0)
            if self.random.random() < self.settings["long_share"]:
                self.submit(normal, LONG, 1.0 + self.random.random())
            if self.random.random() < self.settings["long_share"] / 2:
                self.submit(once, ONCE_LONG, 1.0 + self.random.random())
            with self.changed:
                self.changed.wait_for(lambda: self.open < self.settings["most_open"], timeout=0.5)
            time.sleep(self.settings["pause_s"])  # a rate, so that the load lasts as long as the failures do

    def submit(self, executor: Executor, kind: str, seconds: float) -> None:
        number = next(self.numbers)
        future = executor.submit(leave_a_trace, str(self.directory / "effects"), number, seconds)
        self.submitted.write(number=number, kind=kind, task=str(future.task_id))
        self.follow(future)

    def attach(self) -> None:
        for group in self.settings["groups"]:
            for future in self.patiently(self.executor(group).reload_tasks):
                self.follow(future)
        (self.directory / f"{self.name}.attached").touch()

    def patiently(self, ask: Any) -> Any:
        """What `ask` gives, also when a part of the system is down at the moment: that is said in an error, at once."""
        deadline = time.monotonic() + self.settings["deadline_s"]
        while True:
            try:
                return ask()
            except HeadraceError as error:
                if "no task group" in str(error):
                    return []
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)  # a pace for asking again, as a user's program would

    def follow(self, future: TaskFuture) -> None:
        with self.changed:
            self.open += 1
        self.futures.append(future)
        future.add_done_callback(self.on_done)

    def on_done(self, future: Any) -> None:
        error = future.exception()
        if error is None:
            self.results.write(task=str(future.task_id), value=future.result())
        else:
            self.results.write(task=str(future.task_id), error=type(error).__name__, message=str(error))
        with self.changed:
            self.open -= 1
            self.changed.notify_all()

    def await_all(self) -> int:
        while not (self.directory / "stop").exists():
            time.sleep(0.02)  # a process of its own: told by a file
        with self.changed:
            if self.changed.wait_for(lambda: self.open == 0, timeout=self.settings["deadline_s"]):
                return 0
        hanging = [str(future.task_id) for future in self.futures if not future.done()]
        (self.directory / f"{self.name}.hanging").write_text("\n".join(hanging))
        return 3


if __name__ == "__main__":
    status = LoadClient(json.loads(sys.argv[1])).run()
    # Not through the interpreter's end: what hangs must not keep the process.
    sys.stdout.flush()
    os._exit(status)
