"""Buses, feeds and credentials on the command line."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from service import RunningService

from headrace.cli.main import app
from headrace.schemas import HeadraceError

KIND = "org.example.scan"
COMMAND = typer.main.get_command(app)


@pytest.fixture
def run(
    service: RunningService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    monkeypatch.setenv("HEADRACE_URL", service.url)
    monkeypatch.setenv("HEADRACE_TOKEN", service.token)

    def command(*words: str, status: int = 0) -> str:
        code = 0
        try:
            COMMAND.main(list(words), prog_name="headrace")
        except SystemExit as ended:
            code = int(ended.code or 0)
        except HeadraceError:
            code = 1
        said = capsys.readouterr()
        assert code == status, said
        return said.out

    return command


def test_a_bus_is_made_used_changed_and_deleted(
    service: RunningService, run: Callable[..., str], tmp_path: Path
) -> None:
    service.add_user("grace")
    schemas = json.dumps({KIND: {"schema": {"required": ["path"]}, "policy": "mark"}})
    made = run(
        *("bus", "create", "lab", "--publisher", "grace", "--subscriber", "public", "--description", "ours"),
        *("--max-age", "2d", "--max-size", "5MB", "--schemas", schemas),
    )
    assert "2d, 5 MB" in made
    assert f"{KIND} (mark)" in made
    publish = ("event", "publish", "--bus", "lab", "--type", KIND, "--source", "/s", "--id")
    assert "Stored event 1" in run(*publish, "1", "--data", '{"path": "/x"}')
    assert "problem" in json.loads(run(*publish, "2", "--data", "{}", "--json"))
    assert "before" in run(*publish, "1", "--data", "{}")
    assert "2 events" in run("bus", "show", "lab")
    assert run("bus", "publishers", "lab", "--add", "public", "--remove", "grace").split() == ["public"]
    assert run("bus", "subscribers", "lab", "--remove", "public") == ""
    assert "2h" in run("bus", "change", "lab", "--max-age", "2h")
    assert [bus["name"] for bus in json.loads(run("bus", "list", "--json"))] == ["default", "lab"]
    assert "lab" in run("bus", "list")

    out = tmp_path / "plc.creds"
    subject = run("bus", "credential", "create", "lab", "--out", str(out), "--label", "plc", "--ttl", "1h").strip()
    assert subject.startswith("publish.lab.")
    assert "USER NKEY SEED" in out.read_text()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "plc" in run("bus", "credential", "list", "lab")
    run("bus", "credential", "delete", "lab", subject.rsplit(".", 1)[1])

    # What is there is not overwritten unasked, and nothing is made that cannot be written down.
    out.write_text("of another program")
    out.chmod(0o644)
    for wrong in (("--out", str(out)), ("--out", str(tmp_path / "none" / "x")), ("--out", str(tmp_path), "--force")):
        run("bus", "credential", "create", "lab", *wrong, status=1)
    assert out.read_text() == "of another program"
    assert json.loads(run("bus", "credential", "list", "lab", "--json")) == []
    subject = run("bus", "credential", "create", "lab", "--out", str(out), "--force").strip()
    assert "USER NKEY SEED" in out.read_text()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    run("bus", "credential", "delete", "lab", subject.rsplit(".", 1)[1])
    assert json.loads(run("bus", "credential", "list", "lab", "--json")) == []

    run("bus", "delete", "lab", status=1)
    assert "Deleted" in run("bus", "delete", "lab", "--yes")
    for words in (
        ("bus", "show", "lab"),
        ("bus", "change", "default"),
        ("bus", "create", "x", "--max-size", "much"),
        ("bus", "create", "x", "--publisher", "a:b"),
    ):
        run(*words, status=1)


def test_a_feed_is_made_looked_at_paused_and_deleted(run: Callable[..., str], tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hidden\n")
    feed = run(
        *("feed", "create", "plc", "--url", "nats://127.0.0.1:9", "--subject", "plc.>", "--stream", "PLC"),
        *("--start", "all", "--type", "org.example.{{ message.tokens[1] }}", "--data", "json"),
        *("--user", "ada", "--password-file", str(secret)),
    ).strip()
    shown = run("feed", "show", feed)
    assert "plc.>" in shown
    assert "hidden" not in shown + run("feed", "list", "--json") + run("feed", "show", feed, "--json")
    run("feed", "pause", feed)
    assert "paused" in run("feed", "list")
    run("feed", "set-credential", feed, "--token-file", str(secret))
    run("feed", "resume", feed)
    assert json.loads(run("feed", "show", feed, "--json"))["paused"] is False
    run("feed", "delete", feed, "--yes")
    run("feed", "show", feed, status=1)
    run("feed", "create", "--url", "nats://x", status=1)
