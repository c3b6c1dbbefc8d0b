"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.cli.errors import CommandError
from headrace.cli.options import http_address
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
