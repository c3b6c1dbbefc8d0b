"""Options that several commands share."""

from __future__ import annotations

import pytest

from headrace.cli.errors import CommandError
from headrace.cli.options import http_address


@pytest.mark.parametrize("text", ["", "http://10.0.0.5:8742", "https://headrace.example.org/lab"])
def test_an_address_is_taken_as_it_is(text: str) -> None:
    assert http_address(text, "--public-url") == text


@pytest.mark.parametrize("text", ["headrace.example.org", "ftp://headrace.example.org", "//headrace"])
def test_what_is_no_address_is_refused_with_the_option_and_an_example(text: str) -> None:
    with pytest.raises(CommandError, match=r"--public-url is '.*', which is no address, such as https://"):
        http_address(text, "--public-url")
