"""The object store through the service: uploads, downloads, who may, and what goes when."""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from plain_http import NO_TLS
from service import RunningService, running_service
from waiting import eventually

from headrace.bus.store.objects import CHUNK_BYTES, ObjectStore, Swept
from headrace.bus.store.streams import StreamSettings
from headrace.bus.store.tables import Tables

CONTENT = os.urandom(3 * CHUNK_BYTES + 17)
MINE = "urn:headrace:user:admin"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(tmp_path_factory.mktemp("service"), object_bytes=8 * CHUNK_BYTES) as running:
        yield running


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(http: httpx.Client, content: bytes, name: str | None = None) -> httpx.Response:
    return http.put(f"/api/v1/objects/{name or sha256(content)}", content=content)


def chunks(service: RunningService) -> int:
    async def count(connection: Any) -> int:
        info = await connection.api("STREAM.INFO.OBJECTS")
        return int(info["state"]["messages"])

    return int(service.bus(count))


def sweep(service: RunningService, grace_s: float = 0.0) -> Swept:
    async def work(connection: Any) -> Swept:
        return await ObjectStore(connection, Tables.on(connection), grace_s=grace_s).sweep()

    swept: Swept = service.bus(work)
    return swept


@pytest.fixture(autouse=True)
def clean(service: RunningService) -> Iterator[None]:
    yield
    sweep(service)
    eventually(lambda: chunks(service) == 0, 5, "nothing is left in the object store")


def test_what_was_stored_comes_back_from_any_byte_on(service: RunningService) -> None:
    http = service.http()

    assert put(http, CONTENT).json() == {"sha256": sha256(CONTENT), "size": len(CONTENT)}

    address = f"/api/v1/objects/{sha256(CONTENT)}"
    whole = http.get(address)
    assert whole.content == CONTENT
    assert http.head(address).headers["content-length"] == str(len(CONTENT))
    headers = {"Authorization": f"Bearer {service.token}"}
    for start in (1, CHUNK_BYTES, 2 * CHUNK_BYTES + 5, len(CONTENT) - 1):
        rest = httpx.get(
            service.url + address,
            headers={**headers, "Range": f"bytes={start}-"},
            trust_env=False,
            verify=NO_TLS,
            timeout=20,
        )
        assert rest.status_code == 206
        assert rest.content == CONTENT[start:]
        assert rest.headers["content-range"] == f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_every_size_is_stored(service: RunningService, size: int) -> None:
    content, http = os.urandom(size), service.http()

    assert put(http, content).status_code == 201
    assert http.get(f"/api/v1/objects/{sha256(content)}").content == content


def test_content_that_is_not_what_its_name_says_is_refused_and_leaves_nothing(service: RunningService) -> None:
    answer = put(service.http(), CONTENT, sha256(b"other"))

    assert (answer.status_code, answer.json()["code"]) == (422, "ObjectDamaged")
    assert sha256(CONTENT) in answer.json()["detail"]
    assert chunks(service) == 0
    assert service.http().get(f"/api/v1/objects/{sha256(b'other')}").json()["code"] == "ObjectMissing"


def test_what_is_larger_than_the_limit_is_refused_with_it(service: RunningService) -> None:
    http, large = service.http(), bytes(8 * CHUNK_BYTES + 1)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(large), 100_000):
            yield large[start : start + 100_000]

    announced = put(http, large)
    counted = http.put(f"/api/v1/objects/{sha256(large)}", content=pieces())

    for answer in (announced, counted):
        assert answer.status_code == 413
        assert str(8 * CHUNK_BYTES) in answer.json()["detail"]
    assert chunks(service) == 0


def test_an_object_is_its_owners_alone(service: RunningService) -> None:
    put(service.http(), CONTENT)
    ada = service.http(service.add_user("ada"))

    assert ada.get(f"/api/v1/objects/{sha256(CONTENT)}").status_code == 404
    assert service.http("").get(f"/api/v1/objects/{sha256(CONTENT)}").status_code == 401
    assert ada.get("/api/v1/objects/../users").status_code in (403, 404)
    assert ada.get("/api/v1/objects/ABC").status_code == 404


def test_of_several_uploads_of_one_content_one_stays(service: RunningService) -> None:
    answers: list[int] = []

    def upload() -> None:
        answers.append(put(service.http(), CONTENT).status_code)

    threads = [threading.Thread(target=upload) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [201] * 4
    eventually(lambda: chunks(service) == 4, 5, "the chunks of one upload are left")
    assert service.http().get(f"/api/v1/objects/{sha256(CONTENT)}").content == CONTENT


def test_a_broken_upload_leaves_nothing(service: RunningService) -> None:
    def pieces() -> Iterator[bytes]:
        yield CONTENT[: 2 * CHUNK_BYTES]
        raise RuntimeError("the client dies")

    with pytest.raises(RuntimeError):
        service.http().put(f"/api/v1/objects/{sha256(CONTENT)}", content=pieces())

    eventually(lambda: chunks(service) == 0, 5, "the chunks are removed")


def test_an_object_that_has_lost_a_part_counts_as_missing_and_can_be_stored_again(service: RunningService) -> None:
    http = service.http()
    put(http, CONTENT)

    async def lose_one(connection: Any) -> None:
        info = await connection.api("STREAM.INFO.OBJECTS", {"subjects_filter": "object.*.2"})
        await connection.api("STREAM.PURGE.OBJECTS", {"filter": next(iter(info["state"]["subjects"]))})

    service.bus(lose_one)

    answer = http.get(f"/api/v1/objects/{sha256(CONTENT)}")
    assert (answer.status_code, answer.json()["code"]) == (404, "ObjectMissing")
    put(http, CONTENT)
    assert http.get(f"/api/v1/objects/{sha256(CONTENT)}").content == CONTENT
    assert chunks(service) == 4


def test_a_pool_reads_only_what_a_bundle_for_it_needs(service: RunningService) -> None:
    http = service.http()
    put(http, CONTENT)
    here, here_token = service.add_endpoint(uuid.uuid4().hex)
    there, there_token = service.add_endpoint(uuid.uuid4().hex)
    group, bundle = uuid.uuid4(), uuid.uuid4()
    use = {"pool": "default", "task_group_id": str(group), "bundle_id": str(bundle), "objects": [sha256(CONTENT)]}
    assert http.post(f"/api/v1/endpoints/{here}/object-uses", json=use).json() == {"missing": []}

    def read(endpoint: str, token: str, **query: str) -> httpx.Response:
        code = code_token(service, endpoint, token)
        address = f"/api/v1/endpoints/{endpoint}/pools/default/objects/{sha256(CONTENT)}"
        return service.http(code).get(address, params={"principal": MINE, "bundle": str(bundle), **query})

    assert read(here, here_token).content == CONTENT
    assert read(there, there_token).status_code == 403
    assert read(here, here_token, bundle=str(uuid.uuid4())).status_code == 403
    assert read(here, here_token, principal="urn:headrace:user:ada").status_code == 403
    stranger = service.http(code_token(service, there, there_token))
    address = f"/api/v1/endpoints/{here}/pools/default/objects/{sha256(CONTENT)}"
    assert stranger.get(address, params={"principal": MINE, "bundle": str(bundle)}).status_code == 403


def test_a_pool_stores_nothing_for_whom_it_has_no_bundle(service: RunningService) -> None:
    here, token = service.add_endpoint(uuid.uuid4().hex)
    http, base = service.http(code_token(service, here, token)), f"/api/v1/endpoints/{here}/pools/default"
    bundle = str(uuid.uuid4())
    use = {"principal": MINE, "task_group_id": bundle, "bundle_id": bundle, "objects": [sha256(CONTENT)]}

    assert http.post(f"{base}/object-uses", json=use).status_code == 403
    query = {"principal": MINE, "bundle": bundle}
    assert http.put(f"{base}/objects/{sha256(CONTENT)}", params=query, content=CONTENT).status_code == 403
    assert chunks(service) == 0


def test_an_object_stays_while_it_is_fresh_and_goes_when_nothing_needs_it(service: RunningService) -> None:
    http = service.http()
    put(http, CONTENT)
    here, _ = service.add_endpoint(uuid.uuid4().hex)
    use = {"pool": "default", "task_group_id": str(uuid.uuid4()), "bundle_id": str(uuid.uuid4())}
    http.post(f"/api/v1/endpoints/{here}/object-uses", json={**use, "objects": [sha256(CONTENT)]})

    assert sweep(service, grace_s=60) == Swept()
    assert sweep(service) == Swept(uses=1, objects=1)
    assert http.get(f"/api/v1/objects/{sha256(CONTENT)}").status_code == 404


def test_chunks_that_nobody_finished_are_swept(service: RunningService) -> None:
    async def abandon(connection: Any) -> None:
        for number in range(3):
            await connection.store(f"object.{uuid.uuid4().hex}.{number % 1}", b"x")

    service.bus(abandon)

    assert sweep(service, grace_s=60) == Swept()
    assert sweep(service) == Swept(uploads=3)


def code_token(service: RunningService, endpoint: str, token: str) -> str:
    about = {"python_version": "3.11.0", "headrace_version": "0", "host": "h", "protocol": 1}
    body = {"pool": "default", **about, "lanes": True}
    answer = service.http(token).post(f"/api/v1/endpoints/{endpoint}/pools", json=body)
    assert answer.is_success, answer.text
    return str(answer.json()["code_token"])


def test_a_full_store_refuses_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    streams = StreamSettings(objects_bytes=2 * CHUNK_BYTES)
    with running_service(tmp_path, streams=streams) as small:
        answer = put(small.http(), CONTENT)

        assert (answer.status_code, answer.json()["code"]) == (507, "StreamFull")
        assert chunks(small) == 0
        assert put(small.http(), CONTENT[:CHUNK_BYTES]).status_code == 201


def test_the_service_sweeps_by_itself_and_leaves_no_trace(tmp_path: Path) -> None:
    with running_service(tmp_path, object_grace_s=0.2, object_sweep_s=0.05) as tidy:
        put(tidy.http(), CONTENT)

        eventually(lambda: chunks(tidy) == 0, 10, "the object is removed")
        assert tidy.http().get(f"/api/v1/objects/{sha256(CONTENT)}").status_code == 404
