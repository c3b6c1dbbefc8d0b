"""Payloads that are too large for a message: what travels in their place, and how they become files and values again.

A value of the encoding `OBJECT` is a `Large`: a small value, and `Part`s of it that lie in the object store, each known
by its SHA-256. Each large argument of a call is a part of its own, so that calls that share one share its object:

    f(array, 1), f(array, 2)      Large([(None, 1), {}], parts=[Part([0], sha256 of array)]), …

A part without places is the whole value. The digest stands inside the signed bundle or result part, so nobody can put
another content in its place. Nothing here speaks NATS or HTTP: workers use it, too.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import msgspec

from headrace.bus.data import values
from headrace.bus.data.arguments import decode_arguments, encode_arguments
from headrace.bus.data.encodings import CLOUDPICKLE, INLINE_BYTES, OBJECT, PICKLE
from headrace.bus.data.pickles import pickle_into
from headrace.bus.errors import DecodeError, ObjectMissing, PayloadTooLarge

PART_BYTES: Final = 256 * 1024
"""An argument of such a call that is larger than this becomes an object of its own."""
MOST_BYTES: Final = 1 << 40

_PIECE = 4 * 1024 * 1024
_NEVER_LARGE = frozenset({type(None), bool, int, float, complex})


class Part(msgspec.Struct, array_like=True, frozen=True):
    """A part of a value that lies elsewhere. `places` are positions and names of arguments; none is the whole value."""

    places: list[int | str]
    sha256: bytes
    size: int
    encoding: int
    file: str = ""
    """Where a worker has put it, for its agent's eyes; empty on the bus."""

    @property
    def digest(self) -> str:
        """The SHA-256 in hex: the object's name."""
        return self.sha256.hex()


class Large(msgspec.Struct, array_like=True, frozen=True):
    """A value with parts that lie elsewhere; `encoding` and `data` are the rest of it."""

    encoding: int
    data: bytes
    parts: list[Part]

    def encode(self) -> bytes:
        """The bytes that travel under the tag `OBJECT`."""
        return _encode(self)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Large).decode


def read_large(data: bytes) -> Large:
    """Read what travels under the tag `OBJECT`. Raises `DecodeError`."""
    try:
        large = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"a reference to the object store cannot be read: {error}", raw=data[:200]) from error
    if not large.parts or any(len(part.sha256) != 32 or part.size < 0 for part in large.parts):
        raise DecodeError("a reference to the object store that names no object", raw=data[:200])
    return large


def whole(data: bytes) -> Part | None:
    """The one part that is the whole value of a result. None when it is not so. Raises `DecodeError`."""
    large = read_large(data)
    return large.parts[0] if len(large.parts) == 1 and not large.parts[0].places else None


def describe(part: Part) -> str:
    """A part for people."""
    return f"object {part.digest[:16]}… of {part.size} bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The content of an object, to be uploaded: in a file, or in memory."""

    sha256: str
    size: int
    file: IO[bytes] | None = None
    data: bytes = b""

    def reader(self) -> IO[bytes]:
        """A file at its beginning. One reader at a time."""
        if self.file is None:
            return io.BytesIO(self.data)
        self.file.seek(0)
        return self.file

    def close(self) -> None:
        """Let go of the content; a temporary file goes with it."""
        if self.file is not None:
            self.file.close()

    @classmethod
    def of(cls, data: bytes) -> Source:
        """The source of content that is in memory."""
        return cls(sha256=hashlib.sha256(data).hexdigest(), size=len(data), data=data)


class Spill:
    """Takes what is written; beyond `keep` bytes all of it goes to the file that `open_file` gives.

    Raises `PayloadTooLarge` when more than `most` bytes are written. As a context it closes its file when an error
    leaves it. It is a `headrace.bus.data.pickles.Sink`.
    """

    def __init__(self, open_file: Callable[[], IO[bytes]], *, keep: int, most: int = MOST_BYTES) -> None:
        self._open_file = open_file
        self._keep = keep
        self._most = most
        self.file: IO[bytes] | None = None
        self.size = 0
        self._memory = bytearray()
        self._digest = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self.file is not None:
            self.file.close()

    def write(self, data: Any, /) -> int:
        """Take bytes, or anything with a contiguous buffer."""
        # A pickler hands large buffers over as they are, also of arrays in Fortran's order.
        with data.raw() if isinstance(data, pickle.PickleBuffer) else memoryview(data).cast("B") as view:
            size = view.nbytes
            if self.size + size > self._most:
                raise PayloadTooLarge(
                    f"a value of more than {self._most} bytes, which is the limit",
                    size=self.size + size,
                    limit=self._most,
                )
            self.size += size
            if self.file is None and self.size <= self._keep:
                self._memory += view
                return size
            if self.file is None:
                self.file = self._open_file()
                self._store(memoryview(self._memory))
                self._memory = bytearray()
            self._store(view)
            return size

    def clear(self) -> None:
        """Forget what was written."""
        self.size, self._memory, self._digest = 0, bytearray(), hashlib.sha256()
        if self.file is not None:
            self.file.seek(0)
            self.file.truncate()

    @property
    def sha256(self) -> bytes:
        """The digest of what is in the file. Flushes it."""
        if self.file is not None:
            self.file.flush()
        return self._digest.digest()

    def _store(self, view: memoryview) -> None:
        assert self.file is not None  # noqa: S101 - the caller has opened it
        for start in range(0, view.nbytes, _PIECE):
            with view[start : start + _PIECE] as piece:
                self._digest.update(piece)
                self.file.write(piece)


def split_arguments(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    open_file: Callable[[], IO[bytes]],
    *,
    most: int = MOST_BYTES,
    inline: int = INLINE_BYTES,
) -> tuple[int, bytes, list[Source]]:
    """The arguments of a call as (tag, bytes), and what of them is to be uploaded before.

    Raises `ArgumentNotSerialisable`, `PayloadTooLarge` and, when the temporary files find no room, `OSError`.
    """
    rest, named = list(args), dict(kwargs)
    parts: dict[int, Part] = {}
    sources: list[Source] = []
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for place, value in places:
        if type(value) in _NEVER_LARGE:
            continue
        known = parts.get(id(value))
        if known is None:
            spill = _spilled(value, open_file, most, min(PART_BYTES, inline // 8))
            if spill is None or spill.file is None:
                continue  # it stays where it is; what is wrong with it is found with the others
            tag, digest = spill.tag, spill.sha256
            parts[id(value)] = known = Part([], digest, spill.size, tag)
            sources.append(Source(sha256=digest.hex(), size=spill.size, file=spill.file))
        known.places.append(place)
        if isinstance(place, int):
            rest[place] = None
        else:
            named[place] = None
    try:
        encoding, data = encode_arguments(tuple(rest), named)
    except BaseException:
        for source in sources:
            source.close()
        raise
    wanted = list(parts.values())
    if len(data) > inline:  # many arguments, each of which is small
        remainder = Source.of(data)
        sources.append(remainder)
        wanted.append(Part([], bytes.fromhex(remainder.sha256), remainder.size, encoding))
        encoding, data = 0, b""
    if not wanted:
        return encoding, data, []
    return OBJECT, Large(encoding, data, wanted).encode(), sources


class _TaggedSpill(Spill):
    tag = 0


def _spilled(value: Any, open_file: Callable[[], IO[bytes]], most: int, keep: int) -> _TaggedSpill | None:
    spill = _TaggedSpill(open_file, keep=keep, most=most)
    try:
        with spill:
            spill.tag = pickle_into(value, spill)
    except (OSError, PayloadTooLarge):
        raise
    except Exception:
        return None
    return spill


def join_arguments(data: bytes, file_of: Callable[[Part], Path]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) again. Raises `ObjectMissing` when a file is not there, and `DecodeError`."""
    large = read_large(data)
    encoding, rest = large.encoding, large.data
    for part in large.parts:
        if not part.places:
            encoding, rest = part.encoding, _bytes_of(part, file_of(part))
    args, kwargs = decode_arguments(encoding, rest)
    positional = list(args)
    for part in large.parts:
        value = load(part, file_of(part)) if part.places else None
        for place in part.places:
            if isinstance(place, str):
                kwargs[place] = value
            elif 0 <= place < len(positional):
                positional[place] = value
            else:
                raise DecodeError(f"a part for argument {place + 1} of {len(positional)}", raw=data[:200])
    return tuple(positional), kwargs


def load(part: Part, path: Path) -> Any:
    """The value in a file, read piece by piece where its form allows it. Raises `ObjectMissing` and `DecodeError`."""
    try:
        with path.open("rb") as file:
            return load_from(part, file)
    except FileNotFoundError:
        raise ObjectMissing(f"{describe(part)} is not here (any more)") from None


def load_from(part: Part, file: IO[bytes]) -> Any:
    """The value in an open file. Raises `DecodeError`."""
    if part.encoding not in (PICKLE, CLOUDPICKLE):
        return values.decode(part.encoding, file.read())
    try:
        return pickle.load(file)  # noqa: S301 - by design, as in `headrace.bus.data.values.decode`
    except Exception as error:
        raise values.unreadable(part.encoding, error) from error


def _bytes_of(part: Part, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ObjectMissing(f"{describe(part)} is not here (any more)") from None


def spill_result(value: Any, open_file: Callable[[], IO[bytes]], *, most: int = MOST_BYTES) -> tuple[int, bytes]:
    """The value of a result as (tag, bytes), which name the file that holds it.

    Raises `PayloadTooLarge`, `OSError` and what cloudpickle raised.
    """
    with Spill(open_file, keep=-1, most=most) as spill:
        return OBJECT, _as_large(pickle_into(value, spill), spill)


def spill_encoded(
    tag: int, data: bytes, open_file: Callable[[], IO[bytes]], *, most: int = MOST_BYTES
) -> tuple[int, bytes]:
    """The same for a value that is encoded already. Raises `PayloadTooLarge` and `OSError`."""
    with Spill(open_file, keep=-1, most=most) as spill:
        spill.write(data)
        return OBJECT, _as_large(tag, spill)


def _as_large(tag: int, spill: Spill) -> bytes:
    assert spill.file is not None  # noqa: S101 - the callers have looked
    digest = spill.sha256
    spill.file.close()
    part = Part([], digest, spill.size, tag, Path(spill.file.name).name)
    return Large(0, b"", [part]).encode()
