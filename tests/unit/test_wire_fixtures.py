"""What earlier releases wrote is read, and nobody changes what is written without noticing.

A failure here says that a store, a queue or a home of an earlier release would be read in another way, or that today's
code writes in a new way. If that is meant, and the older fixtures are still read, `python tests/wire_fixtures.py` adds
a revision; where older readers could not pass over what is new, the version in the message's head has to change.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from wire_fixtures import FIXTURES, SAMPLES, revisions, shape_of_file

from headrace.bus.installation.operator import Operator
from headrace.bus.installation.service_keys import ServiceKeys
from headrace.bus.store.tables import Tables

KEYS = FIXTURES.parent / "keys"
ALL = [(name, path.name) for name in SAMPLES for path in revisions(name)]


@pytest.mark.parametrize(("name", "file"), ALL, ids=[file for _, file in ALL])
def test_what_was_written_is_read(name: str, file: str) -> None:
    sample, path = SAMPLES[name], FIXTURES / file
    found = sample.read(path.read_bytes())
    assert type(found) is type(sample.value)
    # An earlier revision lacks what the sample has by now.
    assert found == sample.value or path != revisions(name)[-1]


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_written_changes_with_a_new_revision_only(name: str) -> None:
    sample, known = SAMPLES[name], revisions(name)
    today = sample.write(sample.value)
    assert known, "run: python tests/wire_fixtures.py"
    assert sample.stable(today) == sample.stable(known[-1].read_bytes()), "is it meant? see the module's docstring"
    assert sample.read(today) == sample.value


@pytest.mark.parametrize("name", [name for name in SAMPLES if name in ("message-bundle", "message-result-part")])
def test_fields_are_only_appended(name: str) -> None:
    sample = SAMPLES[name]
    head = 11 if name == "message-bundle" else 3
    bodies = [msgspec.msgpack.decode(sample.stable(path.read_bytes())[head:]) for path in revisions(name)]
    for earlier, later in itertools.pairwise(bodies):
        assert _is_beginning(earlier, later)


def test_every_kind_of_record_has_a_sample() -> None:
    kinds = {field.name for field in dataclasses.fields(Tables)}
    assert {f"record-{name}" for name in kinds} <= SAMPLES.keys()


def test_every_fixture_belongs_to_a_sample() -> None:
    assert {path.name for path in FIXTURES.iterdir()} == {file for _, file in ALL}


@pytest.mark.parametrize("revision", sorted(path.name for path in KEYS.iterdir()))
def test_keys_of_earlier_releases_are_read(revision: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    shutil.copytree(KEYS / revision, keys)
    for path in keys.iterdir():
        path.chmod(0o600)
    operator, service = Operator.open(keys), ServiceKeys.load(keys)
    assert operator.core.account == service.revocation.core_account
    assert operator.key_ring().ticket("x") == service.key_ring().ticket("x")
    rotated = Operator.rotate(keys, now=1.5e9)
    assert ServiceKeys.load(keys).key_ring().ticket("x") == rotated.key_ring().ticket("x")


def test_keys_are_written_as_the_latest_revision_has_them(tmp_path: Path) -> None:
    Operator.open(tmp_path / "keys")
    latest = max(KEYS.iterdir(), key=lambda path: int(path.name))
    for name in ("operator.json", "service.json"):
        assert shape_of_file(tmp_path / "keys" / name) == shape_of_file(latest / name)


def _is_beginning(earlier: Any, later: Any) -> bool:
    """Whether `later` is `earlier` with more fields behind it, at any depth."""
    if isinstance(earlier, list) and isinstance(later, list):
        return len(earlier) <= len(later) and all(map(_is_beginning, earlier, later))
    return bool(earlier == later)
