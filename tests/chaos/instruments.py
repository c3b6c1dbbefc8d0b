"""Instruments that write files in every way that instruments know, and remember what was ever complete."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import defaultdict
from pathlib import Path


class Instruments:
    """Several of them, each a thread, writing into one folder until the end of the block."""

    def __init__(self, folder: Path, seed: int, count: int = 4) -> None:
        self.complete: dict[str, set[int]] = defaultdict(set)
        """The sizes that each file had when it was complete, by its path below the folder."""
        self.left: dict[str, int] = {}
        """The sizes of the files that are there at the end."""
        self._folder = folder
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(random.Random(seed + number), number))  # noqa: S311 - a repeatable load
            for number in range(count)
        ]

    def __enter__(self) -> Instruments:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, luck: random.Random, own: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            directory = luck.choice(["", f"run{luck.randrange(5)}/", f"own{own}/part{number % 7}/"])
            # Some are written again and again, most once.
            name = f"{directory}{own}-{number if luck.random() < 0.7 else number % 5}.tif"
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            size = self._in_parts(name, path, luck) if luck.random() < 0.5 else self._renamed(name, path, luck)
            with self._lock:
                self.left[name] = size
            if luck.random() < 0.05:
                path.unlink()
                with self._lock:
                    del self.left[name]
            time.sleep(luck.random() * 0.05)  # a pace: what is measured takes its time

    def _in_parts(self, name: str, path: Path, luck: random.Random) -> int:
        with path.open("wb", buffering=0) as file:
            for _ in range(luck.randrange(1, 6)):
                file.write(os.urandom(luck.randrange(1, 200)))
                if luck.random() < 0.3:
                    time.sleep(luck.random() * 0.4)  # as long as a file may seem to be complete, and is not
            return self._done(name, os.fstat(file.fileno()).st_size)

    def _renamed(self, name: str, path: Path, luck: random.Random) -> int:
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(os.urandom(luck.randrange(1, 1000)))
        size = self._done(name, part.stat().st_size)
        part.rename(path)
        return size

    def _done(self, name: str, size: int) -> int:
        """Before anybody can see it complete."""
        with self._lock:
            self.complete[name].add(size)
        return size
