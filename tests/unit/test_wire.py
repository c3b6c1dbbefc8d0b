"""Names, ids, keys and bundles: the wire contract."""

from __future__ import annotations

import uuid
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus import ids, keys, names
from headrace.bus.errors import DecodeError, SignatureInvalid
from headrace.bus.tasks.bundles import (
    Bundle,
    FunctionUse,
    ResultPart,
    Runtime,
    Task,
    TaskOptions,
    TaskResult,
    decode_bundle,
    decode_part,
    encode_bundle,
    encode_part,
)

RUNTIME = Runtime(python="3.11.7", headrace="0.1.0")

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
addresses = st.builds(
    names.Address, endpoint=st.uuids(), pool=texts, principal=texts, group=st.uuids(), bundle=st.uuids()
)
bundles = st.builds(
    Bundle,
    result_key=st.binary(min_size=32, max_size=32),
    functions=st.lists(
        st.builds(FunctionUse, id=st.uuids(), grant=st.binary(max_size=32), grant_expires=st.integers(0, 2**40))
    ),
    options=st.lists(
        st.builds(TaskOptions, task_timeout_s=st.none() | st.floats(0, 1e6), max_retries=st.integers(0, 9))
    ),
    tasks=st.lists(st.builds(Task, *([st.integers(0, 65535)] * 4), st.binary(max_size=64))),
    runtime=st.just(RUNTIME),
    origin=st.binary(max_size=20),
)


@given(texts)
def test_any_text_becomes_one_safe_token_and_comes_back(text: str) -> None:
    token = names.token(text)

    assert not set(token) & set(".*> \t\r\n\x00")
    assert token.isascii()
    assert names.text(token) == text


def test_an_empty_text_is_no_token() -> None:
    with pytest.raises(ValueError, match="empty"):
        names.token("")


@given(addresses)
def test_an_address_can_be_read_from_its_task_and_control_subjects(address: names.Address) -> None:
    assert names.Address.of_task_subject(address.task_subject) == address
    assert names.Address.of_task_subject(address.control_subject) == address


@given(addresses, st.integers(0, 10_000))
def test_a_result_subject_says_whose_part_it_is(address: names.Address, part: int) -> None:
    subject = address.result_subject(part)
    read = names.ResultAddress.of_subject(f"stored.{subject}")

    assert (read.endpoint, read.principal, read.group, read.bundle, read.part) == (
        address.endpoint,
        address.principal,
        address.group,
        address.bundle,
        part,
    )
    assert read.subject == subject


@pytest.mark.parametrize("subject", ["", "task", "result.a.b.c.d.e", "task.x.default.ada.g.b", "event.a.b.c.d.e"])
def test_a_subject_of_another_kind_is_refused(subject: str) -> None:
    with pytest.raises(DecodeError):
        names.Address.of_task_subject(subject)


@given(st.uuids(), st.integers(0, ids.MOST_TASKS_PER_BUNDLE - 1))
def test_a_task_id_leads_to_its_bundle_and_index(endpoint: UUID, index: int) -> None:
    bundle = ids.new_bundle_id(endpoint)
    task = ids.task_id(bundle, index)

    assert task.version == 8
    assert task.variant == uuid.RFC_4122
    assert ids.split_task_id(task) == (bundle, index)


def test_what_is_no_task_id_is_refused() -> None:
    with pytest.raises(ValueError, match="version 8"):
        ids.split_task_id(uuid.uuid4())
    with pytest.raises(ValueError, match="65536"):
        ids.task_id(ids.new_bundle_id(uuid.uuid4()), 65536)


@given(st.uuids(), st.integers(0, 2**47), st.lists(texts, min_size=1, max_size=4))
def test_repeatable_ids_repeat_and_differ_by_origin(endpoint: UUID, unix_ms: int, origin: list[str]) -> None:
    first = ids.repeatable_bundle_id(endpoint, unix_ms, *origin)

    assert first == ids.repeatable_bundle_id(endpoint, unix_ms, *origin)
    assert first != ids.repeatable_bundle_id(endpoint, unix_ms, *origin, "again")


@given(bundles, texts)
def test_a_signed_bundle_comes_back_whole(bundle: Bundle, subject: str) -> None:
    key = b"k" * 32
    message = encode_bundle(bundle, subject=subject, key=key, key_expires=12345)

    assert decode_bundle(message, subject=subject, key=key) == bundle


@given(bundles, st.data())
def test_a_changed_byte_anywhere_spoils_the_signature(bundle: Bundle, data: st.DataObject) -> None:
    key = b"k" * 32
    message = bytearray(encode_bundle(bundle, subject="task.a", key=key, key_expires=12345))
    message[data.draw(st.integers(0, len(message) - 1))] ^= data.draw(st.integers(1, 255))

    with pytest.raises((SignatureInvalid, DecodeError)):
        decode_bundle(bytes(message), subject="task.a", key=key)


def test_a_bundle_is_good_under_its_own_subject_and_key_only() -> None:
    bundle = Bundle(result_key=b"", functions=[], options=[], tasks=[], runtime=RUNTIME)
    message = encode_bundle(bundle, subject="task.a", key=b"k" * 32, key_expires=1)

    with pytest.raises(SignatureInvalid):
        decode_bundle(message, subject="task.b", key=b"k" * 32)
    with pytest.raises(SignatureInvalid):
        decode_bundle(message, subject="task.a", key=b"l" * 32)


@pytest.mark.parametrize("name", ["task_timeout_s", "queue_timeout_s", "retry_delay_s"])
@pytest.mark.parametrize("value", [float("nan"), -1.0])
def test_a_duration_that_is_none_is_refused_by_the_reader(name: str, value: float) -> None:
    options = msgspec.structs.replace(TaskOptions(), **{name: value})
    bundle = Bundle(result_key=b"", functions=[], options=[options], tasks=[], runtime=RUNTIME)
    message = encode_bundle(bundle, subject="task.a", key=b"k" * 32, key_expires=1)

    with pytest.raises(DecodeError, match="cannot be read"):
        decode_bundle(message, subject="task.a", key=b"k" * 32)


def test_a_signed_bundle_whose_text_is_no_text_is_refused_like_any_that_cannot_be_read() -> None:
    bundle = Bundle(result_key=b"", functions=[], options=[], tasks=[], runtime=Runtime("host!", "0.1.0"))
    body = msgspec.msgpack.encode(bundle).replace(b"host!", b"\xff\xfe\xff\xfe!")
    head, key = b"HB\x01" + (1).to_bytes(8, "big"), b"k" * 32

    with pytest.raises(DecodeError, match="cannot be read"):
        decode_bundle(head + keys.seal(key, body, head, "task.a") + body, subject="task.a", key=key)


def test_a_bundle_of_a_later_wire_version_is_refused_with_its_version() -> None:
    message = b"HB\x09" + bytes(100)

    with pytest.raises(DecodeError, match="wire version 9"):
        decode_bundle(message, subject="task.a", key=b"k" * 32)


@given(st.binary(max_size=200))
def test_result_parts_come_back_whole_and_only_under_their_subject(value: bytes) -> None:
    part = ResultPart(results=[TaskResult(3, "succeeded", 1, value)], total=4, runtime=RUNTIME, origin=b"o")
    message = encode_part(part, subject="result.a.0", key=b"k" * 32)

    assert decode_part(message, subject="result.a.0", key=b"k" * 32) == part
    with pytest.raises(SignatureInvalid):
        decode_part(message, subject="result.a.1", key=b"k" * 32)


def test_keys_differ_by_endpoint_pool_principal_and_expiry() -> None:
    ring = keys.KeyRing(b"m" * 32)
    one, two = UUID(int=1), UUID(int=2)
    secret = ring.pool_secret(one, "default")
    made = [
        secret,
        ring.pool_secret(two, "default"),
        ring.pool_secret(one, "other"),
        ring.result_key(one, "ada"),
        ring.result_key(one, "grace"),
        keys.bundle_key(secret, "ada", 1),
        keys.bundle_key(secret, "ada", 2),
        keys.bundle_key(secret, "grace", 1),
        keys.function_grant(secret, one, "ada", 1),
        keys.function_grant(secret, two, "ada", 1),
    ]

    assert len(set(made)) == len(made)


def test_a_function_grant_holds_for_its_function_and_principal_only() -> None:
    secret = b"s" * 32
    grant = keys.function_grant(secret, UUID(int=1), "ada", 10)

    keys.check_function_grant(secret, grant, UUID(int=1), "ada", 10)
    for function, principal, expires in [
        (UUID(int=2), "ada", 10),
        (UUID(int=1), "grace", 10),
        (UUID(int=1), "ada", 11),
    ]:
        with pytest.raises(SignatureInvalid):
            keys.check_function_grant(secret, grant, function, principal, expires)


def test_the_key_ring_shows_no_secret_and_wants_a_long_one() -> None:
    assert "m" * 8 not in repr(keys.KeyRing(b"m" * 32))
    with pytest.raises(ValueError, match="32 bytes"):
        keys.KeyRing(b"short")
