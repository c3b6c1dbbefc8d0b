"""The home of `headrace up`, and which ports it takes."""

from __future__ import annotations

import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace.action_provider.auth.tokens import record_of
from headrace.bus.errors import KeysUnusable
from headrace.cli import ports
from headrace.cli.child import last_lines
from headrace.cli.errors import AlreadyRunning, HomeUnusable, PortTaken
from headrace.cli.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.prepare()
    return home


def test_the_administrators_token_is_made_once_in_the_form_of_the_service(home: Home) -> None:
    token = home.ensure_admin_token()

    assert home.ensure_admin_token() == token
    assert record_of(token, principal="urn:headrace:user:admin").token_id in token


def test_a_token_that_others_can_read_is_refused(home: Home) -> None:
    home.ensure_admin_token()
    home.token_file.chmod(0o644)

    with pytest.raises(KeysUnusable, match=r"admin\.token is open to other users"):
        home.ensure_admin_token()


def test_whoever_finds_the_home_taken_is_told_by_whom(home: Home) -> None:
    with home.locked():
        home.announce("http://127.0.0.1:8742")

        with (
            pytest.raises(AlreadyRunning, match=rf"as process {os.getpid()} .* at http://127\.0\.0\.1:8742") as refusal,
            Home(home.path).locked(),
        ):
            pass

    assert refusal.value.pid == os.getpid()
    with Home(home.path).locked():
        pass


def test_a_home_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(HomeUnusable, match="cannot be written: Not a directory; give --home"):
        Home(tmp_path / "file" / "home").prepare()


def test_ports_that_make_no_sense_are_not_remembered(home: Home) -> None:
    (home.path / "ports.json").write_text(json.dumps({"http": 0, "nats": 4742, "x": "y"}))

    assert home.remembered_ports() == {"nats": 4742}


def test_the_port_is_the_given_one_or_the_last_one_or_the_usual_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        a_taken, a_free = taken.getsockname()[1], other.getsockname()[1]
        other.close()

        def choose(given: int | None, remembered: int | None) -> int:
            return ports.choose(given, host="127.0.0.1", remembered=remembered, usual=a_free, option="--port")

        assert choose(None, None) == a_free
        assert choose(None, a_free) == a_free
        assert choose(a_free, a_taken) == a_free
        assert choose(0, a_free) == a_free
        assert choose(0, a_taken) not in (a_taken, 0)
        for given, remembered in ((a_taken, None), (None, a_taken)):
            with pytest.raises(PortTaken, match=rf"port {a_taken} on 127\.0\.0\.1 is in use.*another with --port"):
                choose(given, remembered)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(PortTaken, match=r"cannot listen on 192\.0\.2\.1: .*give --host an address of this machine"):
        ports.choose(0, host="192.0.2.1", remembered=None, usual=1, option="--port")


def test_the_end_of_a_log_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {number}\n" for number in range(10_000)))

    assert last_lines(log, 2) == "\n  line 9998\n  line 9999"
    assert last_lines(tmp_path / "missing") == ""


def test_many_may_prepare_one_home_in_the_same_moment(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(home.prepare) for _ in range(400)]:
            done.result()

    assert [each.name for each in home.path.iterdir()] == ["logs"]
