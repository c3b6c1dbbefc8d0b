"""The `headrace` command as a person types it, against a system that runs."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certifi
import httpx
import pytest
from headrace_up import Up
from plain_http import NO_TLS
from shell import Shell
from waiting import eventually

from headrace.sdk.client import Client

SOURCE = '''
def average(values):
    """The mean of some numbers."""
    return sum(values) / len(values)

def refuse(event):
    raise ValueError(f"not {event['id']}")

def linger():
    import time
    time.sleep(300)  # until it is cancelled
'''


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "functions.py"
    path.write_text(SOURCE)
    return path


def test_the_help_is_there_before_anything_heavy_is_loaded() -> None:
    program = (
        "import sys, headrace.cli.main;"
        "print([m for m in ('asyncio', 'httpx', 'nats', 'starlette', 'yaml') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)

    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("endpoint",),
        ("user",),
        ("token",),
        ("event",),
        ("schedule",),
        ("subscription",),
        ("hook",),
        ("dead-letter",),
        ("function",),
        ("task",),
        ("action",),
    ],
)
def test_every_group_explains_itself(up: Up, words: tuple[str, ...]) -> None:
    assert "Commands:" in Shell(up.home)(*words, "--help").out


# Functions and tasks


def test_a_function_is_registered_from_a_file_shown_listed_and_deleted(shell: Shell, source: Path) -> None:
    function_id = shell("function", "register", str(source), "--name", "average", "--description", "a mean").out.strip()

    assert str(uuid.UUID(function_id)) == function_id
    shown = shell("function", "show", function_id)
    assert "return sum(values) / len(values)" in shown.out
    assert "a mean" in shown.out
    listed = shell("function", "list").out.splitlines()
    assert listed[0].split()[:3] == ["ID", "NAME", "OWNER"]
    assert any(line.startswith(function_id) and "average" in line for line in listed)
    assert shell("function", "show", function_id, "--json").json()["name"] == "average"
    assert "add --yes" in shell("function", "delete", function_id, status=1).err
    shell("function", "delete", function_id, "--yes")
    assert function_id in shell("function", "show", function_id, status=1).err


def test_a_function_shows_its_provider_and_what_that_takes(shell: Shell, source: Path) -> None:
    source.write_text("def mean(values: list[float]):\n    return sum(values) / len(values)\n")
    endpoint = shell("endpoint", "list", "--json").json()[0]["endpoint_id"]
    derived = shell("function", "register", str(source), "--default-endpoint", endpoint).out.strip()
    described = source.with_name("schema.yaml")
    described.write_text("properties:\n  values: {type: array, minItems: 1}\n")
    given = shell("function", "register", str(source), "--input-schema", str(described)).out.strip()

    shown = shell("function", "show", derived).out
    assert f"/actions/functions/{derived}" in shown
    assert endpoint in shown
    assert '"type": "number"' in shown
    assert '"minItems": 1' in shell("function", "show", given).out
    described.write_text("type: integer\n")
    assert (
        "must be 'object'" in shell("function", "register", str(source), "--input-schema", str(described), status=1).err
    )


def test_a_file_with_several_functions_needs_a_name_and_one_that_does_not_compile_is_refused(
    shell: Shell, source: Path
) -> None:
    assert "it defines average, refuse, linger" in shell("function", "register", str(source), status=1).err
    needs = source.with_name("requirements.txt")
    needs.write_text("Numpy >= 2\n")
    named = ("--name", "average", "--requirements", str(needs), "--python", "3.12", "--module", str(source))
    needy = shell("function", "register", str(source), *named).out.strip()
    assert "requirements:    numpy>=2" in (shown := shell("function", "show", needy).out)
    assert "requires_python: 3.12" in shown
    source.write_text("def f(:\n")
    assert "line 1" in shell("function", "register", str(source), status=1).err
    assert "cannot be read" in shell("function", "register", "/no/such/file.py", status=1).err


def test_a_task_is_shown_with_its_value_or_its_traceback(shell: Shell, up: Up, source: Path) -> None:
    run = submitting(shell, up, source)
    good, bad = run("average", [[1, 2, 6]]), run("average", [[]])

    shown = shell("task", "show", good, "--wait", "20s").out
    assert "succeeded" in shown
    assert "3.0" in shown
    shown = shell("task", "show", bad, "--wait", "20s").out
    assert "ZeroDivisionError: division by zero" in shown
    assert "return sum(values) / len(values)" in shown
    assert shell("task", "show", good, "--json").json()["result"] == 3.0
    assert "is succeeded" in shell("task", "cancel", good).out
    assert "no task" in shell("task", "show", str(uuid.uuid4()), status=1).err


def test_an_action_is_listed_and_shown(shell: Shell, up: Up, source: Path) -> None:
    function_id = shell("function", "register", str(source), "--name", "average").out.strip()
    body = {"endpoint_id": up.endpoint_id, "tasks": [{"function_id": function_id, "args": [[1, 3]]}]}
    request = {"request_id": uuid.uuid4().hex, "body": body, "label": "for the list"}
    headers = {"Authorization": f"Bearer {up.token}"}
    answer = httpx.post(
        f"{up.url}/actions/compute/v3/run", json=request, headers=headers, trust_env=False, verify=NO_TLS, timeout=20
    )
    action = answer.json()["action_id"]
    eventually(lambda: "SUCCEEDED" in shell("action", "show", action).out, 20)

    (line,) = [line for line in shell("action", "list").out.splitlines() if action in line]
    assert "for the list" in line
    assert action in [each["action_id"] for each in shell("action", "list", "--status", "succeeded", "--json").json()]
    assert action not in shell("action", "list", "--status", "failed", "--role", "creator_id").out
    assert shell("action", "show", action, "--json").json()["details"]["result"] == [2.0]
    assert "no action" in shell("action", "show", action, "--provider", "compute", status=1).err


def test_a_task_is_seen_to_run_and_cancelled_as_far_as_asked(shell: Shell, up: Up, source: Path) -> None:
    run = submitting(shell, up, source)
    running = run("linger", [])
    eventually(lambda: "running" in shell("task", "show", running).out, 20)
    waiting = run("linger", [])

    assert f"Cancelled {waiting}." in shell("task", "cancel", waiting).out
    assert "goes on" in shell("task", "cancel", running).out
    assert "Asked to stop" in shell("task", "cancel", "--force", running).out
    group = json.loads(shell("task", "show", waiting, "--json").out)["task_group_id"]
    assert f"of group {group}" in shell("task", "cancel", "--group", group).out
    nothing = shell("task", "cancel", "--group", str(uuid.uuid4())).out
    assert nothing.startswith("Cancelled 0 tasks of group ")
    assert nothing.endswith("; 0 found that had not ended.\n")
    assert shell("task", "cancel", waiting, waiting).out.count("Cancelled") == 2
    assert "--group" in shell("task", "cancel", status=2).err

    for task_id in (running, waiting):
        shown = shell("task", "show", task_id, "--wait", "20s").out
        assert "state:            cancelled" in shown
        assert "error:            TaskCancelled: " in shown
        assert "result_stored_at: 20" in shown


def test_what_is_no_id_and_no_duration_is_wrong_usage_or_a_clear_error(shell: Shell) -> None:
    assert "UUID" in shell("task", "show", "nope", status=2).err
    assert "is not a duration" in shell("task", "show", str(uuid.uuid4()), "--wait", "soon", status=1).err


# Events


def test_a_webhook_is_made_listed_given_another_secret_and_removed(shell: Shell, tmp_path: Path) -> None:
    file, secret = tmp_path / "orders.json", tmp_path / "secret"
    file.write_text('{"kind": "generic", "signature": {"header": "X-Sig"}}')
    secret.write_text("given-by-the-sender\n")

    made = shell("hook", "create", "orders", "--file", str(file), "--secret-file", str(secret), "--type", "t", "--json")
    hook = made.json()
    assert (hook["secret"], hook["type"], hook["signature"]["header"]) == ("given-by-the-sender", "t", "X-Sig")
    row = next(line for line in shell("hook", "list").out.splitlines() if hook["hook_id"] in line)
    assert {"orders", "generic", hook["url"]} <= set(row.split())

    other = shell("hook", "rotate-secret", hook["hook_id"])
    assert len(other.out.strip()) == 64
    assert hook["url"] in other.err
    assert "--kind" in shell("hook", "create", "x", status=1).err
    shell("hook", "delete", hook["hook_id"], "--yes")
    assert hook["hook_id"] not in shell("hook", "list").out


def test_events_go_to_an_address_only_where_they_may(shell: Shell, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("shared with the sink\n")
    create = ("subscription", "create", "--type", "t")
    assert "--sink-allow" in shell(*create, "--to", "https://127.0.0.1:1/x", status=1).err
    assert "cannot be read" in shell(*create, "--to", "https://192.0.2.1/", "--secret-file", "none", status=1).err
    assert "--to URL" in shell(*create, "--secret-file", str(secret), status=1).err
    assert "neither a host" in shell("dispatch", "--sink-allow", "10.0.0.0/33", status=1).err


def test_events_run_a_function_and_a_delivery_that_fails_for_good_is_a_dead_letter(
    shell: Shell, up: Up, source: Path, tmp_path: Path
) -> None:
    function_id = shell("function", "register", str(source), "--name", "refuse").out.strip()
    input_file = tmp_path / "input.json"
    input_file.write_text('{"args": ["{{ event }}"]}')
    words = ["--function", function_id, "--endpoint", up.endpoint_id, "--type", "test.refused", "--max-attempts", "1"]
    subscription_id = shell("subscription", "create", "refusals", *words, "--input", f"@{input_file}").out.strip()
    assert "refusals" in shell("subscription", "list").out

    event = ["event", "publish", "--type", "test.refused", "--source", "/test", "--id", "e1"]
    assert shell(*event, "--data", '{"a": 1}').out == "Stored event e1 of /test.\n"
    assert "changed nothing" in shell(*event, "--data", '{"a": 1}').out

    def letters() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = shell("dead-letter", "list", "--subscription", subscription_id, "--json").json()
        return found

    (letter,) = eventually(letters, 30, "a dead letter")
    assert letter["event"]["data"] == {"a": 1}
    assert letter["attempts"][0]["message"] == "not e1"
    row = shell("dead-letter", "list", "--limit", "5").out.splitlines()[1]
    assert "refusals" in row
    follow_and_replay(shell, letter["sequence"], subscription_id)
    shell("subscription", "delete", subscription_id, "--yes")
    assert subscription_id not in shell("subscription", "list").out


def follow_and_replay(shell: Shell, sequence: int, subscription_id: str) -> None:
    """What became of an event whose delivery was given up; and once more."""
    assert str(sequence) in shell("event", "list", "--limit", "5").out
    event = shell("event", "show", str(sequence)).json()["event"]
    assert shell("event", "show", event["source"], event["id"]).json()["sequence"] == sequence
    traced = shell("event", "trace", event["source"], event["id"], "--type", event["type"], "--explain").out
    assert f"refusals ({subscription_id}) matched" in traced
    assert "dead letter" in traced
    assert "yes: " in traced
    assert shell("event", "trace", str(sequence), "--json").json()["stored"]["event"] == event
    assert "is no place on a bus" in shell("event", "trace", "/s", status=1).err
    assert "not found on the bus" in shell("event", "trace", "/s", "nobody's", status=1).out

    range_ = ("--from", str(sequence), "--to", str(sequence))
    replay = shell("event", "replay", "create", "--subscription", subscription_id, *range_).out.strip()
    eventually(lambda: shell("event", "replay", "show", replay).json()["state"] == "finished", 10, "it has ended")
    assert "finished" in next(line for line in shell("event", "replay", "list").out.splitlines() if replay in line)
    for number in range(2, 6):
        shell("event", "publish", "--type", event["type"], "--source", "/test", "--id", f"e{number}")
    other = shell(
        *("event", "replay", "create", "--subscription", subscription_id, "--since", "1h", "--per-second", "0.001")
    ).out.strip()
    assert f"{other} is paused" in shell("event", "replay", "pause", other).out
    assert "is running" in shell("event", "replay", "resume", other, "--per-second", "0.002").out
    assert "is cancelled" in shell("event", "replay", "cancel", other).out


def test_a_schedule_is_previewed_made_listed_paused_resumed_and_deleted(shell: Shell) -> None:
    times = ("--cron", "30 6 * * 1-5", "--timezone", "Europe/Berlin")
    assert "T06:30:00+0" in shell("schedule", "preview", *times, "--count", "2").out
    schedule_id = shell("schedule", "create", "mornings", *times, "--type", "org.example.calibrate").out.strip()
    assert "30 6 * * 1-5 (Europe/Berlin)" in shell("schedule", "list").out
    assert shell("schedule", "show", schedule_id).json()["event"]["type"] == "org.example.calibrate"
    assert len(shell("schedule", "preview", schedule_id, "--count", "3", "--json").json()) == 3
    shell("schedule", "pause", schedule_id)
    assert "paused" in shell("schedule", "list").out
    assert "its next tick: 20" in shell("schedule", "resume", schedule_id).out
    shell("schedule", "delete", schedule_id, "--yes")
    assert schedule_id not in shell("schedule", "list").out
    assert "hour '25'" in shell("schedule", "create", "--cron", "0 25 * * *", status=1).err


def test_data_comes_from_a_file_or_from_standard_input(shell: Shell, tmp_path: Path) -> None:
    data = tmp_path / "data.yaml"
    data.write_text("month: 2026-02\nmax: [1.5, 2]\n")
    event = ["event", "publish", "--type", "test.data", "--source", "/test", "--json"]

    assert shell(*event, "--file", str(data)).json()["duplicate"] is False
    assert shell(*event, "--file", "-", typed='{"a": 1}').json()["sequence"] > 0
    assert "not both" in shell(*event, "--file", "-", "--data", "1", status=2).err
    assert "--data is not JSON" in shell(*event, "--data", "{a: 1}", status=1).err
    assert "NAME=VALUE" in shell(*event, "--attribute", "region", status=1).err


def test_a_filter_that_is_wrong_is_refused_with_its_place(shell: Shell, up: Up, source: Path) -> None:
    function_id = shell("function", "register", str(source), "--name", "refuse").out.strip()
    words = ["--function", function_id, "--endpoint", up.endpoint_id]

    said = shell("subscription", "create", "wrong", *words, "--filter", '{"exakt": {"type": "a"}}', status=1)

    assert "/filter" in said.err


# Users, tokens, login


def test_a_user_is_added_gets_a_token_logs_in_elsewhere_and_is_removed(shell: Shell, up: Up, tmp_path: Path) -> None:
    name = f"ada{uuid.uuid4().hex[:6]}"
    assert f"urn:headrace:user:{name}" in shell("user", "add", name, "--group", "urn:headrace:group:lab").out
    made = shell("token", "create", "--user", name, "--label", "laptop", "--expires", "1h")
    token = made.out.strip()
    assert "shown only now" in made.err
    assert token not in shell("token", "list", "--all").out

    elsewhere = Shell(tmp_path / "elsewhere")
    logged_in = elsewhere("login", "--url", up.url, typed=token + "\n")
    assert f"as urn:headrace:user:{name}" in logged_in.out
    assert token not in logged_in.out + logged_in.err
    profile = elsewhere.home / "profile.json"
    assert stat.S_IMODE(profile.stat().st_mode) == 0o600
    assert json.loads(profile.read_text()) == {"url": up.url, "token": token}

    assert [each["label"] for each in elsewhere("token", "list", "--json").json()] == ["laptop"]
    assert "HTTP 403" in elsewhere("user", "list", status=1).err
    assert name in shell("user", "list").out
    shell("user", "remove", name, "--yes")
    assert name not in shell("user", "list").out
    assert "headrace login" in eventually(lambda: refused(elsewhere), 10)


def test_a_revoked_token_is_gone(shell: Shell) -> None:
    made = shell("token", "create", "--label", "gone", "--json").json()

    shell("token", "revoke", made["token_id"])

    assert made["token_id"] not in shell("token", "list").out
    assert "no token" in shell("token", "revoke", made["token_id"], status=1).err


def test_a_login_that_does_not_work_leaves_no_profile(up: Up, tmp_path: Path) -> None:
    shell, token = Shell(tmp_path), tmp_path / "token"
    token.write_text("hr_wrong\n")

    assert "wrong, withdrawn or expired" in shell("login", "--url", up.url, "--token-file", str(token), status=1).err
    assert "no token was given" in shell("login", "--url", up.url, typed="", status=1).err
    assert "not an http" in shell("login", "--url", "nonsense", typed="t", status=1).err
    assert not (tmp_path / "profile.json").exists()


def test_authorities_that_cannot_be_read_are_refused_at_once_and_have_no_effect_without_tls(
    up: Up, tmp_path: Path
) -> None:
    shell, token, nonsense = Shell(tmp_path), tmp_path / "token", tmp_path / "ca.pem"
    token.write_text(up.token)
    nonsense.write_text("no certificate")
    login = ("login", "--url", up.url, "--token-file", str(token))

    assert "No such file" in shell(*login, "--ca-file", str(tmp_path / "none"), status=1).err
    assert "not certificates" in shell(*login, "--ca-file", str(nonsense), status=1).err
    assert "No such file" in shell("serve", "--ca-file", str(tmp_path / "none"), status=1).err
    assert not (tmp_path / "profile.json").exists()
    assert "no effect" in shell(*login, "--ca-file", certifi.where()).err


def test_a_login_without_tls_over_the_network_is_warned_of(tmp_path: Path) -> None:
    # An address for documentation (RFC 5737): nobody is there.
    said = Shell(tmp_path)("login", "--url", "http://192.0.2.1:9", "--timeout", "0.1", typed="t", status=1)

    assert "without TLS" in said.err
    assert "cannot be reached" in said.err
    assert "check the URL and the network" in said.err
    assert not (tmp_path / "profile.json").exists()


def test_without_a_service_every_command_says_what_to_do(tmp_path: Path) -> None:
    said = Shell(tmp_path)("function", "list", status=1)

    assert str(tmp_path / "profile.json") in said.err
    assert "headrace login" in said.err


@pytest.mark.parametrize("words", [("user", "list"), ("token", "list"), ("function", "list"), ("dead-letter", "list")])
def test_a_command_can_be_told_whose_profile_to_use(up: Up, tmp_path: Path, words: tuple[str, ...]) -> None:
    elsewhere = Shell(tmp_path)

    assert isinstance(elsewhere(*words, "--json", "--home", str(up.home)).json(), list)
    missing = elsewhere(*words, "--home", str(tmp_path / "nobody's"), status=1)
    assert str(tmp_path / "nobody's" / "profile.json") in missing.err


# Endpoints


def test_the_endpoint_of_headrace_up_is_seen_and_protected(shell: Shell, up: Up) -> None:
    (row,) = shell("endpoint", "list", "--json").json()
    assert (row["name"], row["endpoint_id"], row["state"]) == ("default", up.endpoint_id, "running")

    status = shell("endpoint", "status")
    assert "service:     online" in status.out
    assert ": 1 workers" in status.out
    eventually(lambda: "queue:       0 bundles are not finished" in shell("endpoint", "status").out)
    assert "running already" in shell("endpoint", "start", status=1).err
    assert "running already" in shell("endpoint", "delete", "default", "--yes", status=1).err


def test_an_endpoint_is_offered_to_a_user_a_group_and_everybody_and_taken_back(shell: Shell, up: Up) -> None:
    shell("user", "add", "lisa")
    shell("group", "add", "opticians", "lisa")
    assert "urn:headrace:group:opticians" in shell("group", "list").out
    share = ("endpoint", "share", "default")
    assert "urn:headrace:user:lisa" in shell(*share, "--with", "lisa", "--with", "group:opticians").out
    assert shell("endpoint", "share", up.endpoint_id, "--with", "public", "--json").json()["public"] is True
    assert "no user 'lsia'" in shell(*share, "--with", "lsia", status=1).err
    assert "neither a user" in shell(*share, "--with", "team:x", status=1).err
    assert "no endpoint 'lab'" in shell("endpoint", "share", "lab", "--with", "lisa", status=1).err
    everybody = ("--with", "public", "--with", "lisa", "--with", "group:opticians")
    known = shell("endpoint", "unshare", "default", *everybody, "--json").json()
    assert (known["public"], known["shared_with"]) == (False, [])
    shell("group", "remove", "opticians", "lisa")
    assert "opticians" not in shell("group", "list").out
    shell("user", "remove", "lisa", "--yes")


def test_an_endpoint_is_configured_listed_and_deleted(tmp_path: Path) -> None:
    shell, endpoint_id = Shell(tmp_path), str(uuid.uuid4())

    shell("endpoint", "configure", "lab", "--endpoint-id", endpoint_id)

    assert "workers: auto" in (tmp_path / "endpoints" / "lab" / "config.yaml").read_text()
    assert "configured already" in shell("endpoint", "configure", "lab", status=1).err
    assert "cannot be the name" in shell("endpoint", "configure", "../lab", status=1).err
    (row,) = shell("endpoint", "list", "--json").json()
    assert (row["name"], row["endpoint_id"], row["state"], row["pid"]) == ("lab", endpoint_id, "stopped", None)
    assert "not registered yet" in shell("endpoint", "status", "lab", status=3).out
    assert "is not running" in shell("endpoint", "stop", "lab").out
    assert "headrace login" in shell("endpoint", "start", "lab", status=1).err
    assert "no endpoint 'lap'" in shell("endpoint", "start", "lap", status=1).err
    shell("endpoint", "delete", "lab", "--yes")
    assert shell("endpoint", "list", "--json").json() == []


def test_an_endpoint_is_deleted_by_its_id_too_wherever_it_is(shell: Shell, up: Up) -> None:
    with Client(up.url, up.token) as client:
        here, elsewhere = str(uuid.uuid4()), str(client.register_endpoint("elsewhere")["endpoint_id"])
    shell("endpoint", "configure", "lab", "--endpoint-id", here)

    assert "Deleted the endpoint lab." in shell("endpoint", "delete", here, "--yes").out
    assert "'lab'" in shell("endpoint", "delete", "lab", "--yes", status=1).err
    assert "there is no endpoint" in shell("endpoint", "delete", elsewhere, "--local", "--yes", status=1).err
    assert "not on this machine" in shell("endpoint", "delete", elsewhere, "--yes").out
    assert "endpoint" in shell("endpoint", "delete", elsewhere, "--yes", status=1).err
    assert "running already" in shell("endpoint", "delete", up.endpoint_id, "--yes", status=1).err


def test_the_files_of_an_endpoint_are_checked_and_shown_without_running_it(tmp_path: Path) -> None:
    shell, directory = Shell(tmp_path), tmp_path / "endpoints" / "lab"
    shell("endpoint", "configure", "lab")
    (tmp_path / "options.json").write_text('{"workers": 2}')

    assert "is valid" in shell("endpoint", "validate", "lab").out
    assert "\nworkers: 2\n" in shell("endpoint", "render-user-config", "lab", "--options", '{"workers": 2}').out
    assert "is valid" in shell("endpoint", "validate", "lab", "--options", f"@{tmp_path}/options.json").out
    assert "did you mean 'workers'?" in shell("endpoint", "validate", "lab", "--options", '{"wokers": 2}', status=1).err
    assert "--options is a JSON object" in shell("endpoint", "validate", "lab", "--options", "[]", status=1).err
    assert "no endpoint 'lap'" in shell("endpoint", "validate", "lap", status=1).err

    template = directory / "user_config_template.yaml.j2"
    template.write_text("engine:\n  type: ProcessEngine\n  max_workers: {{ n }}\n")
    (directory / "user_config_schema.json").unlink()
    said = shell("endpoint", "validate", "lab")
    assert "is valid" in said.out
    assert f"Without options there is no pool: {template}, line 3: 'n' is undefined" in said.err
    said = shell("endpoint", "render-user-config", "lab", "--options", '{"n": "many"}', status=1)
    assert said.out.endswith('max_workers: "many"\n')
    assert f"{template}, rendered, line 3: engine.max_workers: 'many' does not fit" in said.err

    (directory / "config.yaml").write_text("multi_user: false\n")
    template.unlink()
    assert "config.yaml, line 1: multi_user has no effect" in shell("endpoint", "validate", "lab").err
    assert "has no user_config_template" in shell("endpoint", "render-user-config", "lab", status=1).err


def submitting(shell: Shell, up: Up, source: Path) -> Callable[[str, list[Any]], str]:
    """Submits a call of a function of the file; there is no command for that."""

    def submit(name: str, arguments: list[Any]) -> str:
        function_id = shell("function", "register", str(source), "--name", name).out.strip()
        with Client(up.url, up.token) as client:
            return client.run(*arguments, endpoint_id=up.endpoint_id, function_id=function_id)

    return submit


def refused(shell: Shell) -> str:
    """What a command says once its token has ended."""
    try:
        return shell("token", "list", status=1).err
    except AssertionError:
        return ""


def test_a_subscription_is_tried_made_with_policies_and_changed(shell: Shell, up: Up, source: Path) -> None:
    function = shell("function", "register", str(source), "--name", "refuse").out.strip()
    create = ["subscription", "create", "policies", "--function", function, "--endpoint", up.endpoint_id]
    create += ["--type", "test.policies"]
    sample = json.dumps({"type": "test.policies", "source": "/s", "data": {"n": 1}})
    args = json.dumps({"args": ["{{ event.data.n }}"]})

    tried = shell(*create, "--input", args, "--dry-run", "--sample", sample).out
    assert '"args": [1]' in tried
    assert "nothing was stored" in tried
    assert "Perhaps wrong" in shell(*create, "--input", args, "--dry-run").out
    refused = shell(*create, "--input", args, "--sample", json.dumps({"type": "x", "source": "/s"}), status=1)
    assert "does not pass the filter" in refused.err
    assert "policies" not in shell("subscription", "list").out

    policies = ["--max-age", "12h", "--permanent-error", "KeyError", "--hold", "10m", "--next-endpoint", up.endpoint_id]
    policies += ["--start", "1h", "--expires", "30d", "--on-success", "test.done", "--on-failure", "test.failed"]
    made = shell(*create, *policies, "--json").json()
    assert (made["retry"]["max_age_s"], made["retry"]["permanent_errors"]) == (43_200, ["KeyError"])
    assert made["offline"] == {"hold_s": 600, "next_endpoints": [up.endpoint_id]}
    assert (made["announce"]["success"]["type"], made["announce"]["failure"]["type"]) == ("test.done", "test.failed")
    assert made["expires_at"] > made["created_at"] > made["start"]["time"]

    name = made["subscription_id"]
    shell("subscription", "change", name, "--max-attempts", "9", "--endpoint-from", "{{ event.data.site }}",
          "--allowed-endpoint", f"here={up.endpoint_id}")  # fmt: skip
    changed = shell("subscription", "change", name, "--name", "renamed", "--json").json()
    assert (changed["subscription_id"], changed["name"], changed["endpoint_id"]) == (name, "renamed", None)
    assert changed["endpoint"]["allowed"] == {"here": up.endpoint_id}
    # What was not named of a policy is as it was.
    assert changed["retry"] == {**made["retry"], "max_attempts": 9}
    assert "--allowed-endpoint" in shell("subscription", "change", name, "--endpoint-from", "x", status=2).err

    limits = ["--concurrency", "4", "--per-second", "10", "--order-by", "data.n"]
    shell("subscription", "change", name, *limits, "--batch", "100", "--batch-window", "5s")
    shell("subscription", "change", name, "--concurrency", "2")
    shell("subscription", "pause", name, "--backlog", "drop")
    shown = shell("subscription", "show", name, "--json").json()
    assert shown["flow"]["concurrency"] == 2
    assert shown["flow"]["rate"]["per_second"] == 10
    assert shown["flow"]["batch"] == {"size": 100, "window_s": 5}
    assert shown["paused"]["backlog"] == "drop"
    shell("subscription", "resume", name)
    assert "0 deliveries wait or run" in shell("subscription", "show", name).out
    assert shell("subscription", "change", name, "--flow", "null", "--json").json()["flow"] is None
    assert "data..n" in shell("subscription", "change", name, "--order-by", "data..n", status=1).err
    shell("subscription", "delete", name, "--yes")
