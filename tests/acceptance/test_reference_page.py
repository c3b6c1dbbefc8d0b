"""The Python snippets of Globus Compute's page for users of AWS Lambda run as printed, with only the import changed.

The files below `reference_page/` are the snippets, character by character but for that import. What a reader of the
page fills in is filled in here: the id of the endpoint, and that of the function from the previous example.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from headrace_up import Up, headrace_up

SNIPPETS = Path(__file__).with_name("reference_page")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with headrace_up(tmp_path_factory.mktemp("page") / "home", "--workers", "2") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a reader has saved the snippets."""
    for snippet in SNIPPETS.glob("*.py"):
        shutil.copy(snippet, tmp_path)
    return tmp_path


def run(up: Up, folder: Path, code: str) -> str:
    """What the code prints when somebody runs it in this folder."""
    (folder / "run_me.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "run_me.py"],
        cwd=folder,
        env={**os.environ, **up.environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def snippet(name: str, **filled_in: str) -> str:
    """A snippet with its placeholders filled in."""
    text = (SNIPPETS / f"{name}.py").read_text()
    for placeholder, value in filled_in.items():
        pattern = f'{placeholder} = "<[^>]*>"'
        assert re.search(pattern, text), f"{name}.py has no placeholder for {placeholder}"
        text = re.sub(pattern, f'{placeholder} = "{value}"', text)
    return text


def registered(up: Up, folder: Path, name: str) -> str:
    """The function id that a registering snippet ends with."""
    function_id = run(up, folder, snippet(name) + "\nprint(function_id)\n").strip()
    assert str(uuid.UUID(function_id)) == function_id
    return function_id


def numbers_of(text: str) -> dict[str, float]:
    """A printed dict of numbers, whether or not numpy shows its types."""
    found: dict[str, float] = ast.literal_eval(re.sub(r"np\.float64\(([^)]*)\)", r"\1", text))
    return found


@pytest.mark.parametrize("registering", ["define_and_register", "using_module"])
def test_a_registered_function_is_called_with_a_list_as_its_one_argument(
    up: Up, folder: Path, registering: str
) -> None:
    function_id = registered(up, folder, registering)

    printed = run(
        up,
        folder,
        snippet("submit_registered", endpoint_id=up.endpoint_id, array_stats_function_id=function_id),
    )

    assert numbers_of(printed) == pytest.approx({"mean": 3.0, "std": 2**0.5})


def test_a_function_is_registered_and_submitted_in_one_call(up: Up, folder: Path) -> None:
    printed = run(up, folder, f'endpoint_id = "{up.endpoint_id}"\n' + snippet("submit"))

    assert ast.literal_eval(printed) == {
        "length": 15,
        "uppercase": "HELLO, COMPUTE!",
        "lowercase": "hello, compute!",
    }
