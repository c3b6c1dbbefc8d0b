"""Which functions an executor has registered."""

from __future__ import annotations

import gc
import uuid
from typing import Any

from headrace.sdk.registered import Registered

ID = str(uuid.uuid4())


class Unhashable:
    """Something to call that has no hash, as a model with settings may be."""

    __hash__ = None  # type: ignore[assignment]  # the way of Python to say so

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable)

    def __call__(self) -> int:
        return 1


def test_a_function_is_registered_once_and_again_when_it_is_asked_for() -> None:
    registered, asked = Registered(), []

    def register() -> str:
        asked.append(1)
        return ID

    assert [registered.register(len, register) for _ in range(2)] == [ID, ID]
    assert len(asked) == 1
    registered.register(len, register, again=True)
    assert len(asked) == 2
    assert registered.find(len) == uuid.UUID(ID)
    assert registered.find(max) is None


def test_what_has_no_hash_is_known_by_itself_and_never_taken_for_another() -> None:
    registered = Registered()
    one: Any = Unhashable()
    registered.register(one, lambda: ID)
    assert registered.find(one) == uuid.UUID(ID)
    assert registered.chunk(one) is registered.chunk(one)

    del one
    gc.collect()
    # Were the first one gone, one of these would stand where it stood.
    others = [Unhashable() for _ in range(100)]

    assert [registered.find(other) for other in others] == [None] * 100
