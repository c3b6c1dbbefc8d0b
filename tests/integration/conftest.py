"""What most tests of this tier stand on. A module that needs it otherwise has a fixture of the same name."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from events_desk import NOTES, EventsDesk
from fake_globus import FakeGlobus, fake_globus
from fake_issuer import FakeIssuer, fake_issuer
from headrace_up import Up, headrace_up
from running_pool import RunningPool, running_pool
from service import RunningService, running_service

from headrace.sdk import Client, Executor

_numbers = itertools.count()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service and its NATS server, for all tests of a module."""
    with running_service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="module")
def globus() -> Iterator[FakeGlobus]:
    """Globus Auth and Groups."""
    with fake_globus() as serving:
        yield serving


@pytest.fixture(scope="module")
def issuer() -> Iterator[FakeIssuer]:
    """An OpenID Connect issuer."""
    with fake_issuer() as serving:
        yield serving


@pytest.fixture(scope="module")
def pool(
    service: RunningService, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[RunningPool]:
    """A pool with two workers, or as many as the module's `WORKERS` says."""
    workers = getattr(request.module, "WORKERS", 2)
    with running_pool(service, tmp_path_factory.mktemp("pool"), workers=workers) as running:
        yield running


@pytest.fixture(scope="module")
def endpoint(pool: RunningPool) -> str:
    """The id of the endpoint of `pool`."""
    return pool.endpoint_id


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`headrace up` without an endpoint, for all tests of a module."""
    with headrace_up(tmp_path_factory.mktemp("up") / "home", "--no-endpoint", "--durability", "relaxed") as running:
        yield running


@pytest.fixture
def late(service: RunningService, tmp_path: Path) -> Iterator[RunningPool]:
    """A pool with one worker, of an endpoint of the test's own, that has not been started yet."""
    name = f"late {uuid.uuid4().hex}"
    with running_pool(service, tmp_path / "late", started=False, workers=1, name=name) as running:
        yield running


@pytest.fixture(scope="module")
def away(service: RunningService) -> str:
    """An endpoint that is never there."""
    return service.add_endpoint("away")[0]


@pytest.fixture
def client(service: RunningService) -> Iterator[Client]:
    """The administrator's."""
    with Client(service.url, service.token) as made:
        yield made


@pytest.fixture
def executor(pool: RunningPool, client: Client) -> Iterator[Executor]:
    """The administrator's, for the endpoint of `pool`."""
    with Executor(pool.endpoint_id, client=client) as made:
        yield made


@pytest.fixture
def desk(service: RunningService, endpoint: str, tmp_path: Path) -> EventsDesk:
    """The administrator's view of events, with `NOTES` to run at `endpoint`."""
    return EventsDesk(service.http(), tmp_path, service.add_function(NOTES, "note"), endpoint)


@pytest.fixture
def kind() -> str:
    """A type of events that no other test has, and that none has the beginning of."""
    return f"org.example.kind{next(_numbers):04}"
