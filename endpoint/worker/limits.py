"""What a worker may use, and what its engine tells it of that. Light: workers import it."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from headrace.bus.sizes import shown_size

EXIT_OUT_OF_MEMORY: Final = 77
"""How a worker ends that ran out of memory outside of any call: taking one in, or sending its result."""

LEAST_MEMORY_BYTES: Final = 64_000_000
"""A worker that runs nothing has about 11 MB, and each thread takes 8 MB for its stack."""

OWN_PREFIX: Final = "HEADRACE_"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """The limits of each worker of a pool; None is without."""

    memory_bytes: int | None = None
    """Of private memory, for the worker and each process that a call starts."""
    max_tasks: int | None = None
    """How many calls it runs before another one takes its place."""
    sandboxes: str | None = None
    """The directory under which each call gets one of its own."""
    keep_failed_sandboxes: bool = False
    directory: str | None = None
    """Where calls run."""
    serializers: tuple[str, ...] = ()
    """The only strategies of which functions and arguments are read (`bus.functions.serializers`); none is all."""

    def as_argument(self, *, with_memory: bool = True) -> str:
        """The limits that the worker itself puts in force, for its command line."""
        told = self if with_memory else replace(self, memory_bytes=None)
        return msgspec.json.encode(told).decode()

    @classmethod
    def of_argument(cls, text: str) -> WorkerLimits:
        """Read what `as_argument` wrote."""
        return msgspec.json.decode(text, type=cls)


def limit_memory(limit_bytes: int) -> None:
    """Refuse this process, and those that it starts, more private memory than this, each of them.

    RLIMIT_DATA and not RLIMIT_AS: address space that is only reserved, mapped files and the arenas of threads are no
    memory. Eight idle threads reserve half a gigabyte of it.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def worker_environment(inherited: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    """What workers find in their environment: what their pool found, without what is Headrace's own, and `added`."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(OWN_PREFIX)}
    return kept | dict(added)


def with_hint(error: MemoryError, limit_bytes: int) -> MemoryError:
    """The error, saying what limit it met."""
    hint = (
        f"the memory limit of this endpoint's workers is {shown_size(limit_bytes)} (worker_memory_limit): "
        "use less memory, or an endpoint that grants more"
    )
    if str(error):
        error.add_note(hint)
    else:
        error.args = (hint,)
    return error
