"""Many at once: of several that want the same, exactly one gets it, on whichever replica."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from plain_http import NO_TLS
from service import RunningService, serving

CALLERS = 12


@pytest.fixture(scope="module")
def urls(service: RunningService) -> Iterator[list[str]]:
    with serving(service.loop, service.settings) as second:
        yield [service.url, second]


def at_once(
    service: RunningService, urls: list[str], request: Callable[[httpx.Client], httpx.Response]
) -> Counter[int]:
    headers = {"Authorization": f"Bearer {service.token}"}

    def one(number: int) -> int:
        with httpx.Client(
            base_url=urls[number % len(urls)], headers=headers, trust_env=False, timeout=20, verify=NO_TLS
        ) as client:
            return request(client).status_code

    with ThreadPoolExecutor(CALLERS) as threads:
        return Counter(threads.map(one, range(CALLERS)))


def test_a_user_name_is_given_once(service: RunningService, urls: list[str]) -> None:
    statuses = at_once(service, urls, lambda client: client.post("/api/v1/users", json={"name": "wanted"}))
    assert statuses == {201: 1, 409: CALLERS - 1}


def test_an_endpoint_name_is_given_once(service: RunningService, urls: list[str]) -> None:
    statuses = at_once(service, urls, lambda client: client.post("/api/v1/endpoints", json={"name": "wanted"}))
    assert statuses[201] == 1
    assert set(statuses) == {201, 409}
    listed = service.http().get("/api/v1/endpoints").json()["endpoints"]
    assert [each["name"] for each in listed] == ["wanted"]


def test_functions_registered_on_one_replica_are_there_on_the_other_at_once(
    service: RunningService, urls: list[str]
) -> None:
    with httpx.Client(
        base_url=urls[1],
        headers={"Authorization": f"Bearer {service.token}"},
        trust_env=False,
        verify=NO_TLS,
        timeout=20,
    ) as second:
        for _ in range(20):
            assert second.get(f"/api/v1/functions/{service.add_function()}").status_code == 200
