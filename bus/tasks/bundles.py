"""Bundles and result parts: what travels, how it is encoded and signed.

Both are msgpack arrays behind a fixed head:

    bundle       b"HB" version(1)  expiry(8, big-endian unix seconds)  MAC(40)  body
    result part  b"HR" version(1)                                      MAC(40)  body

The MAC covers head, subject and body (see `seal` in `headrace.bus.keys`). Fields are only ever appended, with defaults,
so an older reader skips what it does not know and a newer one fills in what is not there.
"""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

import msgspec

from headrace.bus.errors import DecodeError, WireVersionUnknown
from headrace.bus.keys import SEAL_BYTES, Keys, check_seal, seal

WIRE_VERSION: Final = 1

STATES: Final = ("pending", "running", "succeeded", "failed", "cancelled", "expired")
"""The states of a task; the last four are final."""

_BUNDLE_MAGIC = b"HB" + bytes([WIRE_VERSION])
_PART_MAGIC = b"HR" + bytes([WIRE_VERSION])


class Runtime(msgspec.Struct, array_like=True, frozen=True):
    """What a submitter or a worker runs on."""

    python: str
    headrace: str
    host: str = ""
    system: str = ""


class FunctionUse(msgspec.Struct, array_like=True, frozen=True):
    """A function that a bundle calls, and the service's proof that the submitter may run it there."""

    id: UUID
    grant: bytes
    grant_expires: int


Seconds = Annotated[float, msgspec.Meta(ge=0)]
"""A duration; what is not a number is none, and would stop a pool's timers."""


class TaskOptions(msgspec.Struct, array_like=True, frozen=True):
    """How tasks are run. Durations are in seconds; None is no limit."""

    task_timeout_s: Seconds | None = None
    queue_timeout_s: Seconds | None = None
    max_retries: int = 0
    retry_delay_s: Seconds = 0.0
    rerun_on_loss: bool = True
    resource_specification: bytes = b""
    """JSON, or nothing."""
    json_result: bool = False
    """Give the value back as JSON; a value that JSON cannot carry is then an error of the task."""


class Task(msgspec.Struct, array_like=True, frozen=True):
    """One call. `function` and `options` are places in the bundle's tables; `arguments` is an encoded value."""

    index: int
    function: int
    options: int
    encoding: int
    arguments: bytes


class Bundle(msgspec.Struct, array_like=True, frozen=True):
    """Tasks of one submitter for one pool, in one message."""

    result_key: bytes
    functions: list[FunctionUse]
    options: list[TaskOptions]
    tasks: list[Task]
    runtime: Runtime
    origin: bytes = b""
    """Echoed in every result part: where the bundle came from, for its submitter's eyes."""
    trace: dict[str, str] = {}
    """W3C trace context."""
    older_result_keys: list[bytes] = []
    """After a rotation of keys: results of the bundle's earlier life may be under one of these."""

    @property
    def result_keys(self) -> tuple[bytes, ...]:
        """The keys under which results of it are believed; the first one signs."""
        return (self.result_key, *self.older_result_keys)


class LogEnd(msgspec.Struct, array_like=True, frozen=True):
    """How much the last run of a task printed (see `headrace.bus.tasks.logs`): who has all of it can know."""

    run: int
    stdout_bytes: int
    stderr_bytes: int


class TaskResult(msgspec.Struct, array_like=True, frozen=True):
    """The outcome of one task. `state` is `succeeded`, `failed`, `cancelled` or `expired`.

    `value` is an encoded value when the task succeeded, else an encoded `headrace.bus.data.failures.Failure`.
    Times are unix seconds by the endpoint's clock; 0 when it did not come so far.
    """

    index: int
    state: str
    encoding: int
    value: bytes
    taken_at: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    attempts: int = 1
    worker: str = ""
    log_end: LogEnd | None = None
    """None when its last run printed nothing, or nobody kept it."""


class ResultPart(msgspec.Struct, array_like=True, frozen=True):
    """Results of some tasks of one bundle."""

    results: list[TaskResult]
    total: int
    """How many tasks the bundle has."""
    runtime: Runtime
    origin: bytes = b""
    stored_at: float = 0.0
    """When the bundle was stored: unix seconds, the server's clock."""
    functions: list[UUID] = []
    """The functions that the bundle calls. None where an older release wrote the part."""
    places: list[int] = []
    """For each result its function's place in `functions`; none when there is but one."""
    pool: bytes = b""
    """Which process of a pool wrote the part; empty when it was none, or an older release."""
    started: list[int] = []
    """Tasks that this process starts next. Stored only of a bundle that comes again and again."""
    excused: list[int] = []
    """Tasks of those that it handed back when it was stopped in order: they were not lost with it."""

    def function_of(self, number: int) -> UUID | None:
        """Which function gave result number `number` (from 0) of this part; None when the part does not say."""
        place = self.places[number] if number < len(self.places) else 0
        return self.functions[place] if 0 <= place < len(self.functions) else None


_encode = msgspec.msgpack.Encoder().encode
_decode_bundle = msgspec.msgpack.Decoder(Bundle).decode
_decode_part = msgspec.msgpack.Decoder(ResultPart).decode


def encode_bundle(bundle: Bundle, *, subject: str, key: bytes, key_expires: int) -> bytes:
    """The message that asks the pool behind `subject` to run the bundle."""
    return _signed(bundle, _BUNDLE_MAGIC + key_expires.to_bytes(8, "big"), subject, key)


def bundle_key_expiry(message: bytes) -> int:
    """The expiry (unix seconds) of the key that signed a bundle. Raises `WireVersionUnknown`, `DecodeError`."""
    if message[:3] != _BUNDLE_MAGIC or len(message) < 11 + SEAL_BYTES:
        raise _unreadable(message, _BUNDLE_MAGIC, "a bundle")
    return int.from_bytes(message[3:11], "big")


def decode_bundle(message: bytes, *, subject: str, key: Keys) -> Bundle:
    """Read a bundle. Raises `SignatureInvalid` before anything inside is looked at, and `DecodeError`."""
    bundle_key_expiry(message)
    body = _checked(message, 11, subject, key)
    try:
        return _decode_bundle(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"a signed bundle cannot be read: {error}", raw=message) from error


def encode_part(part: ResultPart, *, subject: str, key: bytes) -> bytes:
    """The message that stores a result part under `subject`."""
    return _signed(part, _PART_MAGIC, subject, key)


def decode_part(message: bytes, *, subject: str, key: Keys) -> ResultPart:
    """Read a result part. Raises `SignatureInvalid` and `DecodeError`."""
    if message[:3] != _PART_MAGIC or len(message) < 3 + SEAL_BYTES:
        raise _unreadable(message, _PART_MAGIC, "a result part")
    body = _checked(message, 3, subject, key)
    try:
        return _decode_part(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"a signed result part cannot be read: {error}", raw=message) from error


def _signed(content: Bundle | ResultPart, head: bytes, subject: str, key: bytes) -> bytes:
    body = _encode(content)
    return b"".join((head, seal(key, body, head, subject), body))


def _checked(message: bytes, head_bytes: int, subject: str, key: Keys) -> memoryview:
    """The body of a signed message, where it lies. Raises `SignatureInvalid`."""
    start = head_bytes + SEAL_BYTES
    body = memoryview(message)[start:]
    check_seal(key, message[head_bytes:start], body, message[:head_bytes], subject)
    return body


def _unreadable(message: bytes, magic: bytes, noun: str) -> DecodeError:
    if message[:2] == magic[:2] and len(message) > 2 and message[2] != magic[2]:
        text = f"{noun} of wire version {message[2]}; this release of Headrace reads version {magic[2]}"
        return WireVersionUnknown(text, raw=message)
    return DecodeError(f"not {noun}", raw=message)
