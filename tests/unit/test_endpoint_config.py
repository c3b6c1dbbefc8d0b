"""The configuration and the directory of an endpoint."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.endpoint.config import EndpointConfig
from headrace.endpoint.configuration import watch_keys
from headrace.endpoint.directory import Endpoints, Registration
from headrace.endpoint.errors import (
    ConfigInvalid,
    EndpointError,
    EndpointExists,
    EndpointMissing,
    EndpointNameInvalid,
    EndpointRunning,
)
from headrace.schemas import schema


def test_everything_can_be_set() -> None:
    function = uuid4()
    config = EndpointConfig.parse(
        f"""
display_name: The big one
public: true
shared_with: [urn:headrace:user:grace, urn:headrace:group:lab]
allowed_functions:
  - {function}
workers: 12
python: /opt/py/bin/python
environment:
  OMP_NUM_THREADS: 1
  GREETING: hello
worker_memory_limit: 2GB
max_tasks_per_worker: 100
sandbox: true
keep_failed_sandboxes: true
log_level: debug
"""
    )

    assert config == EndpointConfig(
        display_name="The big one",
        public=True,
        shared_with=("urn:headrace:user:grace", "urn:headrace:group:lab"),
        allowed_functions=(function,),
        workers=12,
        python="/opt/py/bin/python",
        environment={"OMP_NUM_THREADS": "1", "GREETING": "hello"},
        worker_memory_limit=2_000_000_000,
        max_tasks_per_worker=100,
        sandbox=True,
        keep_failed_sandboxes=True,
        log_level="debug",
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}"])
def test_nothing_set_is_all_defaults(text: str) -> None:
    config = EndpointConfig.parse(text)

    assert config == EndpointConfig()
    assert config.worker_count == len(os.sched_getaffinity(0))


def test_auto_is_one_worker_for_each_processor() -> None:
    assert EndpointConfig.parse("workers: auto").workers is None


def test_an_empty_allow_list_allows_nothing_and_no_list_allows_all() -> None:
    assert EndpointConfig.parse("allowed_functions: []").allowed_functions == ()
    assert EndpointConfig.parse("").allowed_functions is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("public: true\nwokers: 2\n", "line 2: unknown key 'wokers'; did you mean 'workers'?"),
        ("zzz: 2\n", "line 1: unknown key 'zzz'; the keys are display_name, public"),
        ("1: 2\n", "line 1: unknown key '1'"),
        ("public: true\nworkers: 0\n", "line 2: workers: "),
        ("workers: many\n", "a whole number from 1 to 4096, or auto"),
        ("workers: true\n", "a whole number from 1 to 4096, or auto"),
        ("public: maybe\n", "line 1: public: 'maybe' is not of type 'boolean'"),
        ("shared_with:\n  - urn:headrace:user:ada\n  - ada\n", "line 3: shared_with/1: 'ada' is not a URN such as"),
        ("allowed_functions:\n  - nope\n", "line 2: allowed_functions/0: 'nope'"),
        ("environment:\n  A: b\n  C: [1]\n", "line 3: environment/C: [1] is not of type"),
        ("environment:\n  1A: b\n", "line 1: environment: '1A' is not a variable's name: letters, digits and _"),
        ("environment:\n  HEADRACE_TOKEN: b\n", "line 1: environment: 'HEADRACE_TOKEN' is not a variable's name"),
        (
            "public: true\nkeep_failed_sandboxes: true\n",
            "line 2: keep_failed_sandboxes: there are none to keep without",
        ),
        ("sandbox: false\nkeep_failed_sandboxes: true\n", "line 2: keep_failed_sandboxes: there are none to keep"),
        (
            "public: true\nworker_memory_limit: 2 feet\n",
            "line 2: worker_memory_limit: '2 feet' is no size; write",
        ),
        ("worker_memory_limit: 1KB\n", "line 1: worker_memory_limit: 1000 bytes are too few: a worker needs 64 MB"),
        ("worker_memory_limit: [1]\n", "line 1: worker_memory_limit: [1] is not of type"),
        ("worker_memory_limit: 1.5\n", "line 1: worker_memory_limit: 1.5 is not of type"),
        ("max_tasks_per_worker: 0\n", "line 1: max_tasks_per_worker: 0 is less than the minimum of 1"),
        ("log_level: loud\n", "line 1: log_level: 'loud' is not one of"),
        ("public: true\nworkers: 1\npublic: false\n", "line 3: the key 'public' is there twice, first in line 1"),
        ("public: [true\nworkers: 2", "line 2, column 8: not valid YAML"),
        ("\tpublic: true", "line 1, column 1: not valid YAML"),
        ("python: 2026-13-45\n", "not valid YAML: month must be in 1..12"),
        ("shared_with: &a [*a]\n", "an alias leads to itself"),
        ("- public\n", "line 1: expected `key: value` lines"),
        ("public", "line 1: expected `key: value` lines"),
        ("python: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_to_do(text: str, message: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        EndpointConfig.parse(text, name="config.yaml")

    assert "config.yaml, " in str(caught.value)
    assert message in str(caught.value)


@given(st.text(max_size=200))
def test_no_text_gives_anything_but_a_configuration_or_a_clear_error(text: str) -> None:
    with contextlib.suppress(ConfigInvalid):
        assert EndpointConfig.parse(text).worker_count > 0


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        EndpointConfig.parse("wokers: 1\npubic: true\n")

    assert len(str(caught.value).splitlines()) == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigInvalid, match=str(tmp_path)):
        EndpointConfig.read(tmp_path / "config.yaml")
    with pytest.raises(ConfigInvalid, match="No such file"):
        EndpointConfig.read(tmp_path / "nothing.yaml")


def test_what_configure_writes_is_commented_valid_and_names_every_key(tmp_path: Path) -> None:
    directory = Endpoints(tmp_path).create("laptop")

    text = directory.config_file.read_text()
    assert directory.config() == EndpointConfig(display_name="laptop")
    for key, described in schema("endpoint-config")["properties"].items():
        assert f"{key}:" in text or {"x-no-effect", "x-refused"} & described.keys()
    # With the comments gone it is still a configuration.
    shown = "\n".join(
        line.removeprefix("# ") for line in text.splitlines() if not line.endswith((".", "anew", "first"))
    )
    assert EndpointConfig.parse(shown).environment == {"OMP_NUM_THREADS": "1"}


def test_an_endpoint_is_created_found_listed_and_deleted(tmp_path: Path) -> None:
    endpoints = Endpoints(tmp_path)
    assert endpoints.list() == []

    endpoints.create("b")
    endpoints.create("a")

    assert [each.name for each in endpoints.list()] == ["a", "b"]
    assert stat.S_IMODE(endpoints.get("a").path.stat().st_mode) == 0o700
    endpoints.delete("a")
    assert [each.name for each in endpoints.list()] == ["b"]
    with pytest.raises(EndpointMissing, match=r"there: b.*headrace endpoint configure a"):
        endpoints.get("a")
    with pytest.raises(EndpointExists, match="headrace endpoint delete b"):
        endpoints.create("b")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "-x", ".hidden", "a b", "ä", "a" * 129, "a\n"])
def test_a_name_that_is_no_safe_directory_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EndpointNameInvalid):
        Endpoints(tmp_path).create(name)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_is_taken(tmp_path: Path) -> None:
    assert Endpoints(tmp_path).create("a" * 128).config().display_name == "a" * 128


def test_id_and_token_are_kept_and_the_token_is_private(tmp_path: Path) -> None:
    directory, endpoint_id = Endpoints(tmp_path).create("x"), uuid4()
    assert (directory.registration(), directory.token()) == (None, None)

    directory.keep_registration(endpoint_id, None, None)
    assert directory.registration() == Registration(endpoint_id=endpoint_id)
    assert directory.token() is None

    directory.keep_registration(endpoint_id, "secret", "http://a")
    assert directory.registration() == Registration(endpoint_id=endpoint_id, url="http://a")
    assert directory.token() == "secret"
    assert stat.S_IMODE(directory.token_file.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"endpoint_id": "nope"}', '{"endpoint_id": 5}'])
def test_a_damaged_registration_is_an_error_that_names_the_file(tmp_path: Path, content: str) -> None:
    directory = Endpoints(tmp_path).create("x")
    directory.registration_file.write_text(content)

    with pytest.raises(EndpointError, match=str(directory.registration_file)):
        directory.registration()


def test_one_manager_holds_an_endpoint_and_others_are_told_which(tmp_path: Path) -> None:
    endpoints = Endpoints(tmp_path)
    directory = endpoints.create("x")
    assert directory.running_pid() is None

    with directory.locked():
        assert directory.running_pid() == os.getpid()
        with pytest.raises(EndpointRunning, match=f"process {os.getpid()}") as caught, endpoints.get("x").locked():
            pass
        assert caught.value.pid == os.getpid()
        with pytest.raises(EndpointRunning):
            endpoints.delete("x")

    assert directory.running_pid() is None
    with directory.locked():
        pass


def test_a_log_that_is_long_makes_room(tmp_path: Path) -> None:
    directory = Endpoints(tmp_path).create("x")
    directory.rotate_log()
    directory.log_file.write_bytes(b"x" * (10 * 1024 * 1024 + 1))

    directory.rotate_log()

    assert directory.log_file.stat().st_size == 0
    assert (directory.path / "endpoint.log.1").exists()


def test_a_config_with_a_uuid_is_read_as_one() -> None:
    text = "allowed_functions: [00000000-0000-0000-0000-000000000001]"
    assert EndpointConfig.parse(text).allowed_functions == (UUID(int=1),)


def test_watched_folders_are_read_and_what_is_wrong_with_them_is_said_with_its_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch_keys, "can_hear", lambda: True)
    config = EndpointConfig.parse(
        "watch:\n"
        "  - folder: /data/scope\n"
        "  - {folder: ~/in, name: inbox, complete: marker, marker: READY, include: ['*.csv'], poll: always}\n"
    )
    scope, inbox = config.watch
    assert (scope.name, scope.complete, scope.stable_s, scope.include) == ("scope", "closed", 0.5, ())
    assert (inbox.folder, inbox.marker, inbox.include) == (str(Path("~/in").expanduser()), "READY", ("*.csv",))

    def problem(text: str) -> str:
        with pytest.raises(ConfigInvalid) as caught:
            EndpointConfig.parse(text)
        return str(caught.value)

    twice = "watch:\n- folder: /a/x\n- folder: /b/x\n  marker: y\n"
    assert "line 3: watch/1: the folder's name 'x' is that of watch/0" in problem(twice)
    assert "line 3: watch/1: `marker` needs `complete: marker`" in problem(twice)
    assert "line 3: watch/0/complete" in problem("watch:\n- folder: /a\n  complete: soon\n")
    assert "line 2: watch/0/folder: 'data' is not an absolute path" in problem("watch:\n- folder: data\n")
    assert "line 2: watch/0" in problem("watch:\n- folders: /a\n")
    monkeypatch.setattr(watch_keys, "can_hear", lambda: False)
    assert "pip install 'headrace[watch]'" in problem("watch:\n- folder: /a\n")
    assert EndpointConfig.parse("watch: [{folder: /a, poll: always}]").watch
