"""Documents say what is so: links lead somewhere, commands and options exist, generated parts are up to date."""

from __future__ import annotations

import ast
import functools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from headrace.cli.main import app

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "action_provider",
    "benchmarks",
    "bus",
    "cli",
    "deploy",
    "docs",
    "endpoint",
    "examples",
    "schemas",
    "sdk",
    "tests",
)
DOCUMENTS = sorted(
    {
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *(ROOT / folder / "README.md" for folder in FOLDERS),
        *ROOT.glob("*/*/README.md"),
    }
)

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@functools.cache
def command_line() -> Any:
    """The `headrace` command."""
    return typer.main.get_command(app)


def blocks(document: Path, *languages: str) -> list[str]:
    """The code blocks of these languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def shown_commands(document: Path) -> Iterator[list[str]]:
    """Every `headrace …` command that a document shows, as words."""
    text = document.read_text(encoding="utf-8")
    for block in blocks(document, "sh"):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            if line.strip().startswith("headrace "):
                yield shlex.split(line, comments=True)
    for words in re.findall(r"`(headrace [^`]+)`", text):
        if re.fullmatch(r"headrace [a-z][\w\s./|=<>,…-]*", words):
            yield words.replace("|", " ").split()


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_says_what_it_is_on_one_screen(folder: str) -> None:
    lines = (ROOT / folder / "README.md").read_text(encoding="utf-8").splitlines()

    assert lines[0].startswith("# ")
    assert len(lines) <= 70


@pytest.mark.parametrize("folder", ["action_provider", "bus", "cli", "endpoint", "schemas", "sdk"])
def test_the_readme_of_a_folder_names_its_modules(folder: str) -> None:
    readmes = [path for path in (ROOT / folder).rglob("README.md") if path.parent != ROOT / folder]
    named = {
        word.rpartition("/")[2].removesuffix(".py")
        for word in re.findall(r"`([\w/.…]+)`", (ROOT / folder / "README.md").read_text(encoding="utf-8"))
    }
    nameless = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.stem.startswith("__") and not any(path.is_relative_to(other.parent) for other in readmes)
        # Of these folders the README says what is in all of their modules.
        if path.parent.name not in ("api", "cesql", "patterns", "input_schema")
        if path.stem not in named and not path.stem.endswith("_commands")
    ]

    assert nameless == []


@documents
def test_every_link_leads_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), f"{target} in {document.relative_to(ROOT)}"
        assert linked.is_relative_to(ROOT), f"{target} leads out of the repository"
        if anchor:
            assert anchor in anchors(linked), f"{target} in {document.relative_to(ROOT)}"


def anchors(document: Path) -> set[str]:
    """The places of a document that a link may name."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@documents
def test_python_that_is_shown_is_python(document: Path) -> None:
    for block in blocks(document, "python"):
        ast.parse(block)


@documents
def test_commands_that_are_shown_exist(document: Path) -> None:
    for words in shown_commands(document):
        command = command_line()
        rest = words[1:]
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        if not hasattr(command, "commands"):
            known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}
            for word in rest:
                if word.startswith("--"):
                    assert word.partition("=")[0] in known, f"{' '.join(words)}: there is no {word}"
        else:
            assert not rest or rest[0].startswith(("-", "…")), f"{' '.join(words)}: there is no such command"


def test_the_generated_reference_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_changelog_knows_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md", ROOT / "docs" / "README.md"]
    while waiting:
        document = waiting.pop()
        reached.add(document)
        for target in re.findall(r"\]\(([^)#\s]+\.md)", document.read_text(encoding="utf-8")):
            linked = (document.parent / target).resolve()
            if linked.exists() and linked not in reached:
                waiting.append(linked)

    assert set(ROOT.glob("docs/**/*.md")) - reached == set()


@pytest.mark.parametrize("index", ["README.md", "docs/README.md"])
def test_the_indexes_name_every_document(index: str) -> None:
    text = (ROOT / index).read_text(encoding="utf-8")
    kinds = ("tutorial", "how-to", "reference", "explanation")
    assert [
        path.name for kind in kinds for path in ROOT.glob(f"docs/{kind}/*.md") if f"{kind}/{path.name})" not in text
    ] == []
