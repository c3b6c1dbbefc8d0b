from __future__ import annotations

import dataclasses
import decimal
import enum
import json
import math
import pathlib
import pickle
import re
import sys
import threading
import types
import uuid
from collections import OrderedDict, deque, namedtuple
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from typing import Any

import attrs
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.bus.data import values
from headrace.bus.data.arguments import decode_arguments, encode_arguments, encode_json_arguments
from headrace.bus.data.encodings import CLOUDPICKLE, JSON, MSGPACK, PICKLE
from headrace.bus.data.json_values import encode_json
from headrace.bus.errors import ArgumentNotSerialisable, DecodeError, ResultNotSerialisable


class Colour(enum.IntEnum):
    RED = 1


Point = namedtuple("Point", "x y")

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.text(st.characters(), max_size=3)
    | st.binary()
    | st.sampled_from([Colour.RED, np.float64(1.5), np.int32(3), 2**70, bytearray(b"x"), 1j])
)
keys = st.integers() | st.text() | st.booleans() | st.binary() | st.tuples(st.integers())
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.frozensets(keys, max_size=3)
        | st.sets(st.integers(), max_size=3)
    ),
    max_leaves=20,
)


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal types all the way down."""
    if type(left) is not type(right) or left != right:
        return False
    if isinstance(left, list | tuple):
        return all(map(same, left, right))
    if isinstance(left, dict):
        return all(same(*pair) for pair in zip(left.items(), right.items(), strict=True))
    return True


@given(anything)
def test_a_value_comes_back_unchanged_in_value_and_type(value: Any) -> None:
    assert same(values.decode(*values.encode(value)), value)


@given(st.lists(anything, max_size=3), st.dictionaries(st.text(), anything, max_size=3))
def test_arguments_come_back_unchanged(args: list[Any], kwargs: dict[str, Any]) -> None:
    decoded = decode_arguments(*encode_arguments(tuple(args), kwargs))

    assert same(decoded, (tuple(args), kwargs))


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "a", b"b", [1, "a", [None]], {"a": {1: 2.0}}, {}, []])
def test_plain_data_goes_as_msgpack(value: Any) -> None:
    assert values.encode(value)[0] == MSGPACK


@pytest.mark.parametrize("value", [(1,), {1}, Colour.RED, [np.float64(1)], 2**64, "\ud800", Point(1, 2), date.min])
def test_what_msgpack_would_change_goes_as_a_pickle(value: Any) -> None:
    tag, data = values.encode(value)

    assert tag in (PICKLE, CLOUDPICKLE)
    assert same(values.decode(tag, data), value)


def test_nan_and_signed_zero_keep_their_bits() -> None:
    nan, zero = values.decode(*values.encode([math.nan, -0.0]))

    assert math.isnan(nan)
    assert math.copysign(1, zero) == -1


def test_a_list_that_contains_itself_comes_back_containing_itself() -> None:
    knot: list[Any] = [1]
    knot.append(knot)

    copy = values.decode(*values.encode(knot))

    assert copy[1] is copy


def test_objects_of_installed_packages_go_by_reference_and_own_ones_by_value() -> None:
    class Mine:
        pass

    assert values.encode(np.arange(3))[0] == PICKLE
    assert values.encode(uuid.uuid4())[0] == PICKLE
    assert values.encode(Mine())[0] == CLOUDPICKLE
    assert values.encode(lambda: 1)[0] == CLOUDPICKLE


@pytest.fixture
def own_module(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    (tmp_path / "lab_helpers.py").write_text("FACTOR = 3\nclass Sample:\n    weight = 2\ndef f(x): return FACTOR * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    import lab_helpers  # type: ignore[import-not-found]  # made a line above

    assert isinstance(lab_helpers, types.ModuleType)
    return lab_helpers


def test_code_of_the_users_own_modules_travels_inside_the_value(
    own_module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, function = values.encode(own_module.Sample()), values.encode(own_module.f)

    # when the reader has no such module
    monkeypatch.delitem(sys.modules, "lab_helpers")
    monkeypatch.setattr(sys, "path", [])

    assert values.decode(*sample).weight == 2
    assert values.decode(*function)(2) == 6


def test_a_module_that_holds_what_cannot_be_pickled_goes_by_reference(own_module: types.ModuleType) -> None:
    own_module.LOCK = threading.Lock()  # type: ignore[attr-defined]  # a name that the module has from here on
    exec("def g(): return LOCK", own_module.__dict__)  # noqa: S102 - a function of that module

    assert values.decode(*values.encode(own_module.g)) is own_module.g


def test_registrations_of_the_user_stay_as_they_were(own_module: types.ModuleType) -> None:
    import cloudpickle

    cloudpickle.register_pickle_by_value(own_module)
    try:
        values.encode(own_module.f)
        assert "lab_helpers" in cloudpickle.cloudpickle.list_registry_pickle_by_value()
    finally:
        cloudpickle.unregister_pickle_by_value(own_module)
    values.encode(own_module.f)
    assert "lab_helpers" not in cloudpickle.cloudpickle.list_registry_pickle_by_value()


def test_an_argument_that_cannot_be_sent_is_named() -> None:
    with pytest.raises(ArgumentNotSerialisable, match=r"argument 2, of type _thread.lock, cannot be sent"):
        encode_arguments((1, threading.Lock()), {})
    with pytest.raises(ArgumentNotSerialisable, match=r"argument 'key', of type generator, .*TypeError"):
        encode_arguments((1,), {"key": (x for x in "a")})


def test_an_unknown_tag_and_broken_bytes_are_decode_errors() -> None:
    with pytest.raises(DecodeError, match="unknown encoding tag 99"):
        values.decode(99, b"")
    for tag in (MSGPACK, PICKLE, CLOUDPICKLE, JSON):
        with pytest.raises(DecodeError, match="cannot be read here"):
            values.decode(tag, b"\xc1nonsense")


def test_a_package_that_is_missing_on_this_side_is_named() -> None:
    data = pickle.dumps(np.float64).replace(b"numpy", b"numpi")

    with pytest.raises(DecodeError, match="No module named 'numpi'; install the package that provides 'numpi'"):
        values.decode(PICKLE, data)


@pytest.mark.parametrize(
    ("tag", "data"), [(MSGPACK, b"\x01"), (MSGPACK, b"\x92\x90\x01"), (JSON, b"[]"), (JSON, b"{}")]
)
def test_what_is_no_pair_of_arguments_is_refused(tag: int, data: bytes) -> None:
    with pytest.raises(DecodeError, match="not the arguments of a call"):
        decode_arguments(tag, data)


# JSON

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_json_values_come_back_from_json(value: Any) -> None:
    assert values.decode(JSON, encode_json(value)) == value


@given(st.lists(json_values, max_size=3), st.dictionaries(st.text(), json_values, max_size=3))
def test_json_arguments_come_back(args: list[Any], kwargs: dict[str, Any]) -> None:
    assert decode_arguments(*encode_json_arguments(args, kwargs)) == (tuple(args), kwargs)


@dataclasses.dataclass
class Reading:
    place: str
    at: datetime
    level: float


@attrs.define
class Attributed:
    level: Any


class Station(msgspec.Struct):
    id: uuid.UUID


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.array(["2026-01-02"], dtype="datetime64[ns]"), ["2026-01-02T00:00:00"]),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (Reading("dam", datetime(2026, 1, 2), 1.5), {"place": "dam", "at": "2026-01-02T00:00:00", "level": 1.5}),  # noqa: DTZ001 - a time without a zone travels as it is
        (Station(uuid.UUID(int=1)), {"id": "00000000-0000-0000-0000-000000000001"}),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (decimal.Decimal("1.50"), "1.50"),
        (Colour.RED, 1),
        ({3, 1, 2}, [1, 2, 3]),
        ({"b", 1}, ["b", 1]),
        ((1, (2,)), [1, [2]]),
        (range(3), [0, 1, 2]),
        (deque([1, 2]), [1, 2]),
        ({"b": 1, "a": 2}.keys(), ["b", "a"]),
        ({"b": 1}.items(), [["b", 1]]),
        (Point(1, 2), [1, 2]),
        (Fraction(1, 3), "1/3"),
        (Attributed(3), {"level": 3}),
        (np.datetime64("2026-01-02T03:04:05"), "2026-01-02T03:04:05"),
        (np.ma.masked_array([1, 2], mask=[False, True]), [1, None]),
        (np.array([np.int64(1), "a", None], dtype=object), [1, "a", None]),
        (np.array(5), 5),
        (time(1, 2, 3), "01:02:03"),
        (OrderedDict(a=1), {"a": 1}),
        ({1: "a", date(2026, 1, 2): "b", np.int64(5): "c"}, {"1": "a", "2026-01-02": "b", "5": "c"}),
        (2**70, 2**70),
    ],
)
def test_obvious_types_have_a_json_form(value: Any, expected: Any) -> None:
    assert json.loads(encode_json(value)) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [b"x"]}, r"at \$\.a\[0\]: type bytes; give text instead"),
        ([1, math.nan], r"at \$\[1\]: nan is a number that JSON does not have"),
        (np.array([np.inf]), r"at \$\[0\]: inf is"),
        ({"a b": object()}, r"at \$\['a b'\]: type object has no JSON form"),
        ({(1, 2): 3}, r"a key of type tuple"),
        ({1: "a", "1": "b"}, r"two keys have the text '1'"),
        ((x for x in "a"), r"at \$: type generator; give list"),
        ("\ud800", r"not valid Unicode"),
        (np.array([1j]), r"dtype complex128"),
        (timedelta(1), r"give a number instead, for instance value.total_seconds\(\)"),
        ([np.array(["NaT"], dtype="datetime64[ns]")], r"at \$\[0\]: NaT is no time"),
        (np.timedelta64(1, "s"), r"dtype timedelta64"),
        (1j, r"type complex has no JSON form"),
        ({None: 1}, r"a key of type NoneType"),
        ({0.5: 1}, r"a key of type float"),
    ],
)
def test_what_json_cannot_carry_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(ResultNotSerialisable, match=message):
        encode_json(value)


obvious = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary(max_size=3)
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.decimals()
    | st.fractions()
    | st.sampled_from(Colour)
    | st.sampled_from([np.float64("nan"), np.float32(1.5), np.int8(-1), np.bool_(False), np.datetime64("NaT")])
    | st.lists(st.floats(width=32), max_size=3).map(np.array)
    | st.text(max_size=3).map(pathlib.PurePosixPath),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.lists(inner, max_size=3).map(deque)
        | st.dictionaries(st.text() | st.integers() | st.dates() | st.uuids() | st.tuples(st.text()), inner, max_size=3)
        | st.frozensets(st.integers() | st.text() | st.dates(), max_size=3)
        | inner.map(Attributed)
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(obvious)
def test_every_value_is_strict_json_or_refused_with_its_place(value: Any) -> None:
    refused = None
    try:
        encoded = encode_json(value)
    except ResultNotSerialisable as error:
        refused = str(error)
    if refused is not None:
        assert re.search(r": at \$|not valid Unicode", refused)
        return
    # JSON as everybody reads it: no NaN, no Infinity; and what came of it goes the same way again.
    document = json.loads(encoded.decode(), parse_constant=pytest.fail)
    assert encode_json(document) == encoded


@settings(deadline=None)
@given(st.frozensets(st.integers() | st.text() | st.dates()))
def test_equal_sets_have_equal_texts(value: frozenset[Any]) -> None:
    assert encode_json(value) == encode_json(frozenset(reversed(list(value))))


def test_a_value_that_contains_itself_is_refused_as_json() -> None:
    knot: list[Any] = []
    knot.append(knot)

    with pytest.raises(ResultNotSerialisable, match="contains itself"):
        encode_json(knot)


def test_a_json_argument_that_cannot_be_sent_is_named() -> None:
    with pytest.raises(ArgumentNotSerialisable, match="argument 'x'"):
        encode_json_arguments([1], {"x": b""})
