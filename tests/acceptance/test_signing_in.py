"""`headrace up --auth …`: users of Globus and of an issuer beside those of the service, with nothing but commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_globus import fake_globus, urn_of
from fake_issuer import fake_issuer
from headrace_up import command_line, headrace_up
from shell import Shell

from headrace.sdk import Client, Forbidden, Unauthorized

ADA, ROOT = "ada@example.org", "root@example.org"


def test_people_sign_in_with_globus_or_an_issuer_and_administrators_see_to_them(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    with fake_globus() as globus, fake_issuer() as issuer:
        (home / "globus.yaml").touch(mode=0o600)
        (home / "globus.yaml").write_text(f"client_id: {globus.client_id}\nclient_secret: {globus.client_secret}\n")
        (tmp_path / "lab.yaml").write_text(f"issuer: {issuer.url}\naudience: headrace\nname: lab\n")
        ways = ("--auth", "globus", "--auth", f"oidc={tmp_path / 'lab.yaml'}", "--admin", urn_of(ROOT))
        with headrace_up(home, *ways, "--no-endpoint", "--durability", "relaxed") as up:
            shell, ada = Shell(home), globus.token(ADA)
            # The first administrator's token works although no others of the service do.
            shell("user", "add", urn_of(ADA), "--group", "urn:headrace:group:lab")
            shell("user", "add", "ben")
            bens = shell("token", "create", "--user", "ben", "--json").json()["token"]
            with Client(up.url, bens) as client, pytest.raises(Forbidden, match="sign in with"):
                client.whoami()
            with Client(up.url, ada) as client:
                assert client.whoami()["groups"] == ["urn:headrace:group:lab"]
            with Client(up.url, issuer.token(sub="grace")) as client:
                assert client.whoami()["principal"] == "urn:headrace:oidc:lab:user:grace"
            with Client(up.url, globus.token(ROOT)) as client:
                assert urn_of(ADA) in [user["name"] for user in client.list_users()]
            with Client(up.url, "AgNobodyHasThis") as client, pytest.raises(Unauthorized):
                client.whoami()
            said = shell("login", "--url", up.url, "--home", str(tmp_path / "adas"), typed=ada + "\n")
            assert urn_of(ADA) in said.out
            shell("user", "remove", urn_of(ADA), "--yes")
            with Client(up.url, ada) as client, pytest.raises(Forbidden, match="was removed"):
                client.whoami()
            assert not any(globus.client_secret in command_line(pid) for pid in [up.process.pid, *up.pids()])
            logs = "".join(log.read_text() for log in (home / "logs").glob("*.log"))
            assert not any(secret in logs + up.said() for secret in (globus.client_secret, ada))
