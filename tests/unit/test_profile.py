"""Which service and which token are used."""

from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path

import pytest

from headrace.bus.network import Network
from headrace.sdk.errors import NotConfigured
from headrace.sdk.profile import Profile, network_of, profile_path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    Profile(url="http://file:1", token="file-token").write(tmp_path / "profile.json")
    return tmp_path


def test_arguments_go_before_the_environment_and_the_environment_before_the_file(home: Path) -> None:
    environ = {"HEADRACE_URL": "http://env:1", "HEADRACE_TOKEN": "env-token", "HEADRACE_HOME": str(home)}

    assert Profile.find("http://arg:1", "arg-token", environ=environ).url == "http://arg:1"
    assert Profile.find(environ=environ) == Profile(url="http://env:1", token="env-token")
    assert Profile.find(environ={"HEADRACE_HOME": str(home)}) == Profile(url="http://file:1", token="file-token")


def test_the_file_is_in_the_home_that_the_environment_names() -> None:
    assert profile_path({"HEADRACE_HOME": "/srv/headrace"}) == Path("/srv/headrace/profile.json")
    assert profile_path({}) == Path.home() / ".headrace" / "profile.json"


@pytest.mark.parametrize(
    ("arguments", "environ", "missing"),
    [
        (("http://a", None), {}, "the argument token is missing"),
        ((None, "t"), {}, "the argument url is missing"),
        ((None, None), {"HEADRACE_URL": "http://a"}, "HEADRACE_TOKEN is missing"),
        ((None, None), {"HEADRACE_TOKEN": "t"}, "HEADRACE_URL is missing"),
        ((None, None), {"HEADRACE_URL": "http://a", "HEADRACE_TOKEN": ""}, "HEADRACE_TOKEN is missing"),
    ],
)
def test_one_of_a_pair_alone_is_an_error_that_names_the_other(
    home: Path, arguments: tuple[str | None, str | None], environ: dict[str, str], missing: str
) -> None:
    with pytest.raises(NotConfigured, match=missing):
        Profile.find(*arguments, environ={**environ, "HEADRACE_HOME": str(home)})


def test_without_any_configuration_the_error_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured) as caught:
        Profile.find(environ={"HEADRACE_HOME": str(tmp_path)})

    message = str(caught.value)
    for words in ("HEADRACE_URL", str(tmp_path / "profile.json"), "headrace up", "headrace login"):
        assert words in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{not json", "is not JSON"),
        ("[1, 2]", "is not an object"),
        ('{"url": "http://a"}', "token in .* is missing"),
        ('{"url": "http://a", "token": 5}', "is not a text"),
        ('{"url": "ftp://a", "token": "t"}', "is not an http:// or https:// URL"),
        ('{"url": "http://a:port", "token": "t"}', "is not an http:// or https:// URL"),
        ('{"url": "http://a", "token": "two words"}', "does not look like a token"),
        ('{"url": "http://a", "token": "t\\r\\nX-Evil: 1"}', "does not look like a token"),
    ],
)
def test_a_malformed_file_is_an_error_that_names_the_file_or_the_field(
    tmp_path: Path, content: str, problem: str
) -> None:
    path = tmp_path / "profile.json"
    path.write_text(content)
    path.chmod(0o600)

    with pytest.raises(NotConfigured, match=problem) as caught:
        Profile.read(path)
    assert str(path) in str(caught.value)


def test_the_url_loses_the_slash_at_its_end() -> None:
    assert Profile.find("http://a:8/", "t").url == "http://a:8"


def test_the_token_is_not_shown() -> None:
    assert "hush" not in repr(Profile(url="http://a", token="hush"))


def test_what_is_written_is_for_its_owner_only_and_reads_back(tmp_path: Path) -> None:
    network = Network(ca_file=tmp_path / "ca.pem", nats_urls=("wss://b",))
    profile, path = Profile(url="http://a", token="t", network=network), tmp_path / "new" / "profile.json"

    profile.write(path)

    assert Profile.read(path, environ={}) == profile
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["profile.json"]


def test_proxies_are_those_of_the_environment_which_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    in_file = Network(ca_file=tmp_path / "file.pem", nats_urls=("wss://file",))
    Profile(url="http://a", token="t", network=in_file).write(path)
    environ = {"HEADRACE_HOME": str(tmp_path), "HTTPS_PROXY": "http://proxy:1", "HEADRACE_CA_FILE": "/env.pem"}
    expected = Network(https_proxy="http://proxy:1", ca_file=Path("/env.pem"), nats_urls=("wss://file",))

    assert Profile.find(environ=environ).network == expected
    assert Profile.read(path, environ=environ).network == expected
    assert network_of(path, environ=environ) == expected
    assert network_of(tmp_path / "none.json", environ=environ).nats_urls == ()
    assert Profile.find("http://a", "t", ca_file=Path("/arg.pem"), environ=environ).network.ca_file == Path("/arg.pem")


def test_a_file_that_others_can_read_is_used_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"url": "http://a", "token": "t"}))
    path.chmod(0o644)

    with caplog.at_level(logging.WARNING, logger="headrace.sdk.profile"):
        assert Profile.read(path).url == "http://a"

    assert f"chmod 600 {path}" in caplog.text
