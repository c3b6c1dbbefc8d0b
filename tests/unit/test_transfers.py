"""Uploads and downloads of the SDK: what is shared, what is tried again, what is given up."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import uuid
from collections.abc import Callable, Collection

import pytest

from headrace.bus.data.encodings import JSON
from headrace.bus.data.payloads import Large, Part, Source, Spill, spill_encoded
from headrace.bus.errors import ObjectDamaged, ObjectMissing
from headrace.bus.names import Address
from headrace.sdk.errors import NotFound, QueueFull, RequestRefused, ServiceUnavailable, ServiceUnreachable
from headrace.sdk.limits import WhenFull
from headrace.sdk.payloads import Sources, Transfers, temporary_file

pytestmark = pytest.mark.anyio

ADDRESS = Address(endpoint=uuid.uuid4(), pool="default", principal="urn:x:y", group=uuid.uuid4(), bundle=uuid.uuid4())
AWAY = ServiceUnreachable("the service is away")
CONTENT = b'"' + b"x" * 1000 + b'"'


class Service:
    """What the service does: errors first, as they are given, then what it should."""

    def __init__(self, errors: Collection[Exception] = (), *, cut_at: int = 10**9) -> None:
        self.errors = list(errors)
        self.cut_at = cut_at
        self.objects: dict[str, bytes] = {}
        self.uploads = 0
        self.starts: list[int] = []
        self._lock = threading.Lock()

    def use_objects(self, address: Address, objects: Collection[str]) -> list[str]:
        self._fail()
        return [sha256 for sha256 in objects if sha256 not in self.objects]

    def upload_object(self, source: Source) -> None:
        self._fail()
        with self._lock:
            self.uploads += 1
        self.objects[source.sha256] = source.reader().read()

    def download_object(self, sha256: str, write: Callable[[bytes], None], start: int) -> None:
        self.starts.append(start)
        if sha256 not in self.objects:
            raise NotFound(404, "ObjectMissing", "there is no such object")
        content = self.objects[sha256]
        if start < self.cut_at < len(content):
            write(content[start : self.cut_at])
            raise AWAY
        write(content[start:])

    def _fail(self) -> None:
        with self._lock:
            if self.errors:
                raise self.errors.pop(0)


def reference(content: bytes) -> bytes:
    return Large(0, b"", [Part([], hashlib.sha256(content).digest(), len(content), JSON)]).encode()


async def test_bundles_that_need_the_same_content_send_it_once() -> None:
    service = Service()
    transfers, source = Transfers(service), Source.of(CONTENT)

    await asyncio.gather(*(transfers.bring(ADDRESS, [source, source]) for _ in range(5)))
    await transfers.bring(ADDRESS, [source])

    assert service.uploads == 1
    assert service.objects == {source.sha256: CONTENT}


async def test_a_service_that_is_away_is_asked_again() -> None:
    service = Service([AWAY, AWAY])

    await Transfers(service).bring(ADDRESS, [Source.of(CONTENT)])

    assert service.uploads == 1


@pytest.mark.parametrize(
    ("error", "away_s"),
    [
        (AWAY, 0.0),
        (ServiceUnavailable("the store is full", status=507), 60.0),
        (RequestRefused(413, "BodyTooLarge", "too large"), 60.0),
    ],
)
async def test_what_is_refused_or_away_for_too_long_is_told(error: Exception, away_s: float) -> None:
    with pytest.raises(type(error)):
        await Transfers(Service([error]), away_s=away_s).bring(ADDRESS, [Source.of(CONTENT)])


async def test_a_broken_download_goes_on_where_it_was() -> None:
    service = Service(cut_at=400)
    service.objects[hashlib.sha256(CONTENT).hexdigest()] = CONTENT

    assert await Transfers(service).value(reference(CONTENT)) == "x" * 1000
    assert service.starts == [0, 400]


async def test_a_result_that_is_gone_or_changed_is_told_as_that() -> None:
    service = Service()
    with pytest.raises(ObjectMissing, match="no such object"):
        await Transfers(service).value(reference(CONTENT))

    service.objects[hashlib.sha256(CONTENT).hexdigest()] = CONTENT.replace(b"x", b"y")
    with pytest.raises(ObjectDamaged, match="SHA-256"):
        await Transfers(service).value(reference(CONTENT))


def test_contents_that_wait_are_kept_once_and_take_room_once() -> None:
    sources, content = Sources(), b"x" * 100

    def in_a_file() -> Source:
        with Spill(temporary_file, keep=-1) as spill:
            spill.write(content)
            return Source(sha256=spill.sha256.hex(), size=spill.size, file=spill.file)

    first, second = in_a_file(), in_a_file()
    held = [*sources.hold([first], WhenFull(), lambda: None), *sources.hold([second], WhenFull(), lambda: None)]

    assert held == [first, first]
    assert second.file is not None
    assert second.file.closed
    assert sources.room.size == 100
    sources.let_go(held[:1])
    assert first.reader().read() == content
    sources.let_go(held[1:])
    assert first.file is not None
    assert first.file.closed
    assert (sources.room.size, sources.room.tasks) == (0, 0)


def test_more_than_the_disk_should_hold_waits_or_is_refused() -> None:
    sources = Sources()
    sources.room._most_bytes = 100
    held = sources.hold([Source.of(b"x" * 100)], WhenFull(), lambda: None)

    with pytest.raises(QueueFull, match="large arguments"):
        sources.hold([Source.of(b"y")], WhenFull(raises=True), lambda: None)
    sources.let_go(held)
    sources.let_go(sources.hold([Source.of(b"y")], WhenFull(raises=True), lambda: None))


def test_an_encoded_value_keeps_its_form(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("spool") / "value"

    assert spill_encoded(JSON, CONTENT, lambda: path.open("x+b"))[1]
    assert path.read_bytes() == CONTENT
