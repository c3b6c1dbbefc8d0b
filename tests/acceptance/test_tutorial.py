"""What README and tutorial show runs as it is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from headrace_up import Up, headrace_up

ROOT = Path(__file__).parents[2]


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


def run(up: Up, program: str) -> str:
    """What a program prints that somebody types in the folder of the examples."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    done = subprocess.run(
        [sys.executable, "-"],
        input=program,
        cwd=ROOT / "examples",
        env={**environment, "HEADRACE_HOME": str(up.home)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
