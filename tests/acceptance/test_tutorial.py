"""What README and tutorial show runs as it is shown."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from headrace_up import Up, headrace_up

ROOT = Path(__file__).parents[2]

T = TypeVar("T", str, bytes)

_TURN = "(the other terminal)"


def python_of(document: str) -> str:
    """All Python of a document, as one program."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("README.md", ["{'mean': 3.0, 'std': 1.4142135623730951}", "{'mean': 1.5, 'std': 0.5}"]),
        (
            "docs/tutorial/first-steps.md",
            [
                "{'mean': 7.054838709677419, 'std': 3.399794937808268}",
                "2013-01 6.1",
                "raised there, caught here: division by zero",
                "SUCCEEDED [",
                "200\n200\n",
                "'duplicate': False}\nTrue\n",
                "\n{'month': '2012-01', 'days': 22, 'total': 173.3}",
                "every attempt failed (3)",
            ],
        ),
    ],
)
def test_what_a_document_shows_runs_as_shown(document: str, says: list[str], tmp_path: Path) -> None:
    with headrace_up(tmp_path / "home", "--workers", "2") as up:
        printed = run(up, python_of(document))

    for text in says:
        assert text in printed


def test_the_way_from_a_file_to_a_result_is_as_shown_also_when_the_watcher_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("watchfiles", reason="this environment is older than the extra `watch`, which `dev` has")
    document = "docs/tutorial/from-file-to-result.md"
    text = (ROOT / document).read_text()
    (prepared,) = re.findall(r"^mkdir .*$", text, re.MULTILINE)
    (watch,) = re.findall(r"^headrace watch start (.*)$", text, re.MULTILINE)
    # Where the reader turns to the other terminal, the program waits for a line.
    program = python_of(document)
    for place in ("path = measure(folder, months[6])", "print(wait_for(8)[-1])"):
        program = program.replace(place, f"print('{_TURN}', flush=True); input()\n{place}")
    shown = re.findall(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    with (
        headrace_up(tmp_path / "home", "--workers", "1", "--durability", "relaxed") as up,
        contextlib.ExitStack() as ends,
    ):
        environment = {**surroundings(up), "HOME": str(tmp_path)}
        subprocess.run(["sh", "-c", prepared], env=environment, check=True)
        watcher = [
            sys.executable,
            "-m",
            "headrace.cli.main",
            "watch",
            "start",
            *shlex.split(watch.replace("~", str(tmp_path))),
        ]

        def watching() -> subprocess.Popen[bytes]:
            return ends.enter_context(ended(subprocess.Popen(watcher, env=environment, stderr=subprocess.DEVNULL)))

        first = watching()
        python = ends.enter_context(
            ended(
                subprocess.Popen(
                    [sys.executable, "-c", program],
                    cwd=ROOT / "examples",
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        )
        printed = until_the_turn(python)
        first.kill()
        first.wait()
        go_on(python)
        printed += until_the_turn(python)
        watching()
        go_on(python)
        printed += python.communicate(timeout=40)[0]
    assert python.returncode == 0
    assert printed == "".join(shown)


def until_the_turn(python: subprocess.Popen[str]) -> str:
    """What a program prints before it waits."""
    assert python.stdout is not None
    return "".join(iter(python.stdout.readline, f"{_TURN}\n"))


def go_on(python: subprocess.Popen[str]) -> None:
    """Let a program that waits go on."""
    assert python.stdin is not None
    python.stdin.write("\n")
    python.stdin.flush()


@contextlib.contextmanager
def ended(process: subprocess.Popen[T]) -> Iterator[subprocess.Popen[T]]:
    """A process that is gone afterwards."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def surroundings(up: Up) -> dict[str, str]:
    """The environment of somebody who uses this system."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return {**environment, "HEADRACE_HOME": str(up.home)}


def run(up: Up, program: str) -> str:
    """What a program prints that somebody types in the folder of the examples."""
    done = subprocess.run(
        [sys.executable, "-"],
        input=program,
        cwd=ROOT / "examples",
        env=surroundings(up),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
