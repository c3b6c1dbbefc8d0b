"""What an engine sends to a place on another machine, as bytes: calls, and what is the same for all of them."""

from __future__ import annotations

import msgspec

from headrace.bus.functions.code import FunctionCode
from headrace.bus.tasks.bundles import TaskOptions


class Control(msgspec.Struct, array_like=True, frozen=True):
    """How a place reaches its pool, to be told of calls that are to end (`headrace.endpoint.engines.grids.control`)."""

    addresses: list[str]
    port: int
    secret: bytes


class Boxed(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """What workers are put into there (`headrace.endpoint.engines.containers.runtimes.Container`)."""

    kind: str
    image: str = ""
    options: str = ""
    python: str = "python3"
    variables: list[str] = []


class Terms(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """What is the same for all calls of a pool."""

    pool: str
    """Another one each time that a pool starts: its calls have nothing to do with those of an earlier one."""
    environment: dict[str, str] = {}
    """What is added to the environment that the place has."""
    limits: str = "{}"
    """`WorkerLimits.as_argument`."""
    most_output_bytes: int = 0
    """How much is kept of what a run of a call prints; 0 keeps nothing."""
    spool: str = ""
    mark: str = ""
    """A file in the spool: who sees it sees the pool's own files."""
    inline_bytes: int = 0
    control: Control | None = None
    python: str = ""
    """The interpreter of the calls; empty is that of the place."""
    is_mpi: bool = False
    """Whether the place gives each call nodes of its own, and says so in the environment."""
    container: Boxed | None = None


class Order(msgspec.Struct, array_like=True, frozen=True):
    """A call. `code` is its place in the parcel's table; `attempts` is how often it was tried before."""

    key: bytes
    function: bytes
    code: int
    encoding: int
    arguments: bytes
    options: TaskOptions
    attempts: int = 0


class Parcel(msgspec.Struct, array_like=True, frozen=True):
    """Calls that go to one place together. `terms` are encoded `Terms`: places compare them before they read them."""

    terms: bytes
    codes: list[FunctionCode]
    orders: list[Order]


encode = msgspec.msgpack.Encoder().encode
read_parcel = msgspec.msgpack.Decoder(Parcel).decode
read_terms = msgspec.msgpack.Decoder(Terms).decode
