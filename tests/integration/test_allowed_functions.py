"""A pool keeps to its allow lists by itself, whatever the service lets through."""

from __future__ import annotations

from pathlib import Path

import pytest
from running_pool import running_pool
from service import RunningService

from headrace.sdk import Client, FunctionUnusable

SOURCE = "def f():\n    return 'ran'\n"


def test_a_pool_refuses_what_neither_its_ids_nor_its_owners_have(service: RunningService, tmp_path: Path) -> None:
    writer = service.add_user("a-writer")
    with Client(service.url, writer) as theirs, Client(service.url, service.token) as ours:
        by_owner = theirs.register_source_code(SOURCE, public=True)
        by_id, other = ours.register_source_code(SOURCE), ours.register_source_code(SOURCE)
        of_writers = {"functions": [by_id], "owners": ["urn:headrace:user:a-writer"]}
        with running_pool(service, tmp_path, name="choosy", workers=1, allow_lists=[of_writers]) as pool:
            tasks = [ours.run(endpoint_id=pool.endpoint_id, function_id=each) for each in (by_owner, by_id, other)]
            assert ours.get_result(tasks[0], wait_s=20) == "ran"
            assert ours.get_result(tasks[1], wait_s=20) == "ran"
            with pytest.raises(FunctionUnusable, match="allowed_function_owners"):
                ours.get_result(tasks[2], wait_s=20)


def test_a_function_must_be_let_in_by_every_list(service: RunningService, tmp_path: Path) -> None:
    with Client(service.url, service.token) as client:
        one, two = client.register_source_code(SOURCE), client.register_source_code(SOURCE)
        of_config = {"functions": None, "owners": ["urn:headrace:user:admin"]}
        of_template = {"functions": [one], "owners": None}
        with running_pool(service, tmp_path, name="narrow", workers=1, allow_lists=[of_config, of_template]) as pool:
            tasks = [client.run(endpoint_id=pool.endpoint_id, function_id=each) for each in (one, two)]
            assert client.get_result(tasks[0], wait_s=20) == "ran"
            with pytest.raises(FunctionUnusable, match="allowed_functions"):
                client.get_result(tasks[1], wait_s=20)
