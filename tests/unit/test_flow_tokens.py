"""Tokens go where they belong, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.sdk.flows import FlowError, TokenMissing, Tokens, read_tokens
from headrace.sdk.profile import Profile

PROFILE = Profile(url="http://127.0.0.1:8742", token="profile-token")
LAN = Profile(url="http://lab.example.org:8742", token="lan-token")
GIVEN = {
    "https://example.org": "host",
    "https://example.org/a": "a",
    "https://example.org/a/b": "b",
    "https://auth.globus.org/scopes/x/all": "scope",
    "Admin": "admin",
}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.org/c", "host"),
        ("https://example.org/a", "a"),
        ("https://example.org/a/", "a"),
        ("https://example.org:443/a/x", "a"),
        ("https://example.org/a/b/c", "b"),
        # `/ab` is not below `/a`.
        ("https://example.org/ab", "host"),
        ("http://127.0.0.1:8742/actions/compute/v3", "profile-token"),
    ],
)
def test_the_token_of_the_longest_url_is_taken(url: str, expected: str) -> None:
    assert Tokens(GIVEN, PROFILE).find(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org.evil.net/a",
        "https://evil.net/https://example.org/a",
        "https://example.org:8443/a",
        "http://127.0.0.1:8743/actions",
        "http://localhost:8742/actions",
        "https://127.0.0.1:8742/actions",
    ],
)
def test_a_token_goes_to_no_other_place(url: str) -> None:
    with pytest.raises(TokenMissing, match="there is no token"):
        Tokens(GIVEN, PROFILE).find(url)


def test_no_token_travels_in_the_clear_but_to_ones_own_service() -> None:
    tokens = Tokens({"http://example.org": "t"}, LAN)

    with pytest.raises(TokenMissing, match="use https"):
        tokens.find("http://example.org/x")
    assert tokens.find("http://lab.example.org:8742/actions/compute/v3") == "lan-token"


def test_scopes_and_roles_are_named_by_the_definition() -> None:
    tokens = Tokens(GIVEN, PROFILE)

    assert tokens.find("https://other.org/x", scope="https://auth.globus.org/scopes/x/all") == "scope"
    assert tokens.find("https://example.org/a", run_as="Admin") == "admin"
    assert tokens.find("https://example.org/a", run_as="Flow") == "a"
    with pytest.raises(TokenMissing, match="the role 'Curator'"):
        tokens.find("https://example.org/a", run_as="Curator")
    assert tokens.with_roles({"Curator": "c", "Admin": "other"}).find("https://x.org", run_as="Curator") == "c"
    assert tokens.with_roles(None).find("https://example.org/c") == "host"


def test_a_function_may_stand_for_a_token_and_is_asked_each_time() -> None:
    given = iter(["Bearer first", "second"])
    tokens = Tokens({"https://example.org": lambda: next(given)})

    assert tokens.find("https://example.org/a") == "first"
    assert tokens.find("https://example.org/a") == "second"
    with pytest.raises(TokenMissing, match="cannot be had: the function that gives the token raised StopIteration"):
        tokens.find("https://example.org/a")


@pytest.mark.parametrize("text", ["", "two words", "line\nbreak", "tökén"])
def test_what_is_no_token_is_sent_nowhere_and_shown_to_nobody(text: str) -> None:
    with pytest.raises(TokenMissing) as caught:
        Tokens({"https://example.org": text}).find("https://example.org/a")

    assert "does not look like a token" in str(caught.value)
    assert not text or text not in str(caught.value)
    assert Tokens({"https://example.org": " good\n"}).find("https://example.org") == "good"


def test_tokens_are_not_shown() -> None:
    assert "admin" not in repr(Tokens(GIVEN, PROFILE))
    assert "profile-token" not in repr(Tokens(GIVEN, PROFILE))


def test_a_file_of_tokens_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps(GIVEN))
    file.chmod(0o644)
    with pytest.raises(FlowError, match="chmod 600"):
        read_tokens(file)

    file.chmod(0o600)
    assert read_tokens(file) == GIVEN


@pytest.mark.parametrize(("text", "words"), [("{", "is not JSON"), ("[]", "no object"), ('{"a": 1}', "no object")])
def test_a_file_that_is_none_is_told(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(text)
    file.chmod(0o600)

    with pytest.raises(FlowError, match=words):
        read_tokens(file)
    with pytest.raises(FlowError, match="missing"):
        read_tokens(tmp_path / "none.json")
