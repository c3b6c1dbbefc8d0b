"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from headrace.cli.errors import CommandError
from headrace.cli.main import app
from headrace.cli.options import http_address
from headrace.cli.records import say_records
from headrace.cli.subscription_options import with_policies
from headrace.cli.values import read_document


@pytest.mark.parametrize("text", ["", "http://10.0.0.5:8742", "https://headrace.example.org/lab"])
def test_an_address_is_taken_as_it_is(text: str) -> None:
    assert http_address(text, "--public-url") == text


@pytest.mark.parametrize("text", ["headrace.example.org", "ftp://headrace.example.org", "//headrace"])
def test_what_is_no_address_is_refused_with_the_option_and_an_example(text: str) -> None:
    with pytest.raises(CommandError, match=r"--public-url is '.*', which is no address, such as https://"):
        http_address(text, "--public-url")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"kind: [a\n", ", line 2, column 1: not valid YAML: expected ',' or ']'"),
        (b'{"a": }', " is neither JSON nor YAML: Expecting value: line 1 column 7"),
        (b"\xff\xfe", " cannot be read: it is no text in UTF-8"),
        (None, " cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_place(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "given.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CommandError) as caught:
        read_document(file)
    assert str(caught.value).startswith(f"{file}{said}")


@pytest.mark.parametrize(("start", "expires"), [("yesterday", None), (None, "soon")])
def test_a_wrong_time_names_its_option_and_what_it_takes(start: str | None, expires: str | None) -> None:
    with pytest.raises(CommandError, match=r"^--(start 'yesterday'|expires 'soon') is not a duration: .*, or .*a time"):
        with_policies({}, start=start, expires=expires)


def test_every_list_has_a_limit() -> None:
    def lists(command: Any, name: str = "") -> Iterator[tuple[str, set[str]]]:
        for word, each in getattr(command, "commands", {}).items():
            yield from lists(each, f"{name} {word}".strip())
        if name.endswith(" list"):
            yield name, {option for parameter in command.params for option in parameter.opts}

    # Keys that were replaced are few, and each of them matters.
    without = {name for name, options in lists(typer.main.get_command(app)) if "--limit" not in options}
    assert without == {"keys list"}


def test_a_list_that_is_cut_says_so_beside_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    records = [{"id": number} for number in range(3)]

    say_records(records, {"ID": "id"}, as_json=False, limit=2)
    said = capsys.readouterr()
    assert said.out.split() == ["ID", "0", "1"]
    assert "the first 2; --limit gives more" in said.err

    say_records(records, {"ID": "id"}, as_json=False, limit=3)
    said = capsys.readouterr()
    assert (said.out.split(), said.err) == (["ID", "0", "1", "2"], "")

    say_records(records, {"ID": "id"}, as_json=True, limit=1)
    assert "1" not in capsys.readouterr().out
