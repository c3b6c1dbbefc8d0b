"""What stands for a value that is too large for a message, and how it becomes files and values again."""

from __future__ import annotations

import hashlib
import io
import threading
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.data import payloads, values
from headrace.bus.data.arguments import decode_arguments, encode_arguments
from headrace.bus.data.encodings import CLOUDPICKLE, INLINE_BYTES, JSON, OBJECT, PICKLE
from headrace.bus.data.payloads import PART_BYTES, Large, Part, Source, Spill
from headrace.bus.errors import ArgumentNotSerialisable, DecodeError, ObjectMissing, PayloadTooLarge

LARGE = bytes(PART_BYTES + 1)

parts = st.builds(
    Part,
    st.lists(st.integers(0, 2**31) | st.text(max_size=8), max_size=3),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**40),
    st.integers(0, 5),
)


class Store:
    """Objects by their digest, in files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open_file(self) -> IO[bytes]:
        return (self.directory / f"file{len(list(self.directory.iterdir()))}").open("w+b")

    def keep(self, sources: list[Source]) -> None:
        for source in sources:
            content = source.reader().read()
            assert hashlib.sha256(content).hexdigest() == source.sha256
            assert len(content) == source.size
            source.close()
            (self.directory / source.sha256).write_bytes(content)

    def path(self, part: Part) -> Path:
        return self.directory / part.digest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def there_and_back(store: Store, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any], int]:
    tag, data, sources = payloads.split_arguments(args, kwargs, store.open_file)
    store.keep(sources)
    if tag != OBJECT:
        return *decode_arguments(tag, data), 0
    assert len(data) < PART_BYTES
    return *payloads.join_arguments(data, store.path), len(sources)


@given(st.integers(0, 5), st.binary(max_size=50), st.lists(parts, min_size=1, max_size=4))
def test_a_reference_comes_back_as_it_was(encoding: int, data: bytes, some: list[Part]) -> None:
    large = Large(encoding, data, some)

    assert payloads.read_large(large.encode()) == large


@given(st.binary(max_size=80))
def test_what_is_no_reference_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        payloads.read_large(data)


@pytest.mark.parametrize(
    "value",
    [
        LARGE,
        bytearray(LARGE),
        "é" * PART_BYTES,
        list(range(PART_BYTES)),
        {"a": LARGE, 1: (LARGE,)},
        np.arange(100_000.0),
        np.asfortranarray(np.arange(100_000.0).reshape(100, 1000)),
        np.arange(100_000)[::2],
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_large_argument_is_an_object_and_comes_back_as_it_was(store: Store, value: Any) -> None:
    args, kwargs, objects = there_and_back(store, 1, value, key="small")

    assert objects == 1
    assert args[0] == 1
    assert kwargs == {"key": "small"}
    assert type(args[1]) is type(value)
    assert np.array_equal(args[1], value) if isinstance(value, np.ndarray) else args[1] == value


def test_calls_that_share_an_argument_share_its_object(store: Store) -> None:
    first = payloads.split_arguments((LARGE, 1), {}, store.open_file)[2]
    second = payloads.split_arguments((2, LARGE), {"other": 3}, store.open_file)[2]

    assert [source.sha256 for source in first] == [source.sha256 for source in second]
    store.keep([*first, *second])


def test_one_object_in_several_places_is_one_object_again(store: Store) -> None:
    args, kwargs, objects = there_and_back(store, LARGE, LARGE, again=LARGE)

    assert objects == 1
    assert args[0] is args[1] is kwargs["again"]


def test_many_small_arguments_are_one_object_together(store: Store) -> None:
    small = [bytes([i % 256]) * 100_000 for i in range(INLINE_BYTES // 100_000 + 1)]

    args, kwargs, objects = there_and_back(store, *small, last=LARGE)

    assert objects == 2
    assert list(args) == small
    assert kwargs == {"last": LARGE}


def test_code_of_the_users_own_goes_by_value(store: Store) -> None:
    class Own:
        def __init__(self) -> None:
            self.data = LARGE

    tag, data, sources = payloads.split_arguments((Own(),), {}, store.open_file)
    store.keep(sources)

    assert tag == OBJECT
    assert payloads.read_large(data).parts[0].encoding == CLOUDPICKLE
    [own] = payloads.join_arguments(data, store.path)[0]
    assert own.data == LARGE


def test_an_argument_that_cannot_be_sent_is_named(store: Store) -> None:
    with pytest.raises(ArgumentNotSerialisable, match="argument 'lock'"):
        payloads.split_arguments((LARGE,), {"lock": threading.Lock()}, store.open_file)


def test_an_object_that_is_not_here_is_missing(store: Store) -> None:
    _, data, [source] = payloads.split_arguments((LARGE,), {}, store.open_file)
    source.close()

    with pytest.raises(ObjectMissing, match=r"of \d+ bytes is not here"):
        payloads.join_arguments(data, store.path)


def test_parts_for_arguments_that_are_not_there_are_refused(store: Store) -> None:
    (store.directory / ("00" * 32)).write_bytes(b"\x80\x05N.")
    large = Large(1, encode_arguments((), {})[1], [Part([3], bytes(32), 4, PICKLE)])

    with pytest.raises(DecodeError, match="argument 4 of 0"):
        payloads.join_arguments(large.encode(), store.path)


def test_a_large_result_is_written_while_it_is_pickled_and_its_limit_is_kept(store: Store) -> None:
    tag, data = payloads.spill_result([LARGE, 1], store.open_file)
    part = payloads.whole(data)

    assert tag == OBJECT
    assert part is not None
    assert payloads.load(part, store.directory / part.file) == [LARGE, 1]
    with pytest.raises(PayloadTooLarge) as caught:
        payloads.spill_result([LARGE, 1], store.open_file, most=1000)
    assert caught.value.limit == 1000


def test_an_encoded_result_is_the_same_in_its_file(store: Store) -> None:
    part = payloads.whole(payloads.spill_encoded(JSON, b'{"a": 1}', store.open_file)[1])

    assert part is not None
    assert payloads.load(part, store.directory / part.file) == {"a": 1}


@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(-1, 100))
def test_a_spill_holds_what_was_written_in_memory_or_in_its_file(pieces: list[bytes], keep: int) -> None:
    file, everything = io.BytesIO(), b"".join(pieces)
    spill = Spill(lambda: file, keep=keep)
    spill.write(b"forgotten")
    spill.clear()

    for piece in pieces:
        spill.write(piece)

    assert spill.size == len(everything)
    if spill.file is not None:
        assert file.getvalue() == everything
        assert spill.sha256 == hashlib.sha256(everything).digest()
    else:
        assert len(everything) <= keep


def test_encoding_stops_as_soon_as_it_is_too_large() -> None:
    for value in (LARGE, "x" * PART_BYTES, [LARGE], np.zeros(PART_BYTES), (LARGE, 1)):
        with pytest.raises(PayloadTooLarge):
            encode_arguments((value,), {}, most=PART_BYTES // 2)
    for value in (LARGE, "x" * PART_BYTES, np.zeros(PART_BYTES), (LARGE, 1)):
        with pytest.raises(PayloadTooLarge):
            values.encode(value, most=PART_BYTES // 2)
    assert values.encode((1, 2), most=PART_BYTES) == values.encode((1, 2))
    assert encode_arguments((1, object), {}, most=PART_BYTES) == encode_arguments((1, object), {})
