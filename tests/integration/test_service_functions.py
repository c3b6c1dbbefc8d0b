"""Functions over HTTP."""

from __future__ import annotations

import base64
import uuid

import pytest
from service import RunningService

FUNCTIONS = "/api/v1/functions"
SOURCE = "def add(a, b):\n    return a + b\n"


def test_a_function_comes_back_as_it_was_registered(service: RunningService) -> None:
    http = service.http()
    pickled = base64.b64encode(b"\x80\x05pickle").decode()
    body = {
        "name": "add",
        "source": SOURCE,
        "pickled": pickled,
        "entry_point": "add",
        "python_version": "3.12.1",
        "description": "Adds.",
        "metadata": {"team": ["a", 1, None]},
    }
    answer = http.post(FUNCTIONS, json=body)
    assert answer.status_code == 201
    function = http.get(f"{FUNCTIONS}/{answer.json()['function_id']}").json()
    assert {name: function[name] for name in body} == body
    assert function["owner"] == "urn:headrace:user:admin"
    assert function["public"] is False


def test_a_function_needs_code_and_readable_code(service: RunningService) -> None:
    http = service.http()
    for code in ({}, {"source": ""}, {"source": None}, {"pickled": ""}):
        assert http.post(FUNCTIONS, json={"name": "f", "python_version": "3.11", **code}).status_code == 422
    answer = http.post(FUNCTIONS, json={"name": "f", "python_version": "3.11", "pickled": "no base64!"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/pickled"


def test_a_function_is_not_there_for_strangers_unless_it_is_public(service: RunningService) -> None:
    stranger = service.http(service.add_user("stranger"))
    private = service.add_function()
    public = service.add_function(public=True)
    assert stranger.get(f"{FUNCTIONS}/{private}").status_code == 404
    assert stranger.delete(f"{FUNCTIONS}/{private}").status_code == 404
    assert stranger.get(f"{FUNCTIONS}/{public}").status_code == 200
    listed = {each["function_id"] for each in stranger.get(FUNCTIONS).json()["functions"]}
    assert public in listed
    assert private not in listed


def test_only_the_owner_deletes_a_function(service: RunningService) -> None:
    other = service.http(service.add_user("other"))
    public = service.add_function(public=True)
    answer = other.delete(f"{FUNCTIONS}/{public}")
    assert answer.status_code == 403
    assert "belongs to somebody else" in answer.json()["detail"]
    assert service.http().delete(f"{FUNCTIONS}/{public}").status_code == 204
    assert service.http().get(f"{FUNCTIONS}/{public}").status_code == 404


@pytest.mark.parametrize("function_id", [str(uuid.UUID(int=4)), "not-a-uuid", "%2e%2e", "*", ">"])
def test_an_unknown_function_is_not_found(service: RunningService, function_id: str) -> None:
    assert service.http().get(f"{FUNCTIONS}/{function_id}").status_code == 404


def test_a_function_that_the_store_cannot_take_is_refused_with_the_limit(service: RunningService) -> None:
    body = {"name": "big", "python_version": "3.11", "source": "x" * 9_000_000}
    answer = service.http().post(FUNCTIONS, json=body)
    assert answer.status_code == 413
    assert "8388608 bytes" in answer.json()["detail"]


def test_source_needs_no_python_version_and_a_pickle_does(service: RunningService) -> None:
    http = service.http()

    assert http.post(FUNCTIONS, json={"name": "f", "source": "def f(): pass"}).status_code == 201
    answer = http.post(FUNCTIONS, json={"name": "f", "pickled": "gASVAA=="})
    assert answer.status_code == 422
    assert "python_version" in answer.text
