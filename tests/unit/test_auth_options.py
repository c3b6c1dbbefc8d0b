"""`--auth` and `--admin`: what they and their files say, and what is refused before anything starts."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from headrace.action_provider.auth.settings import SIGNATURES, AuthSettings
from headrace.bus.errors import KeysUnusable
from headrace.cli.auth_options import CLIENT_ID, CLIENT_SECRET, auth_settings
from headrace.cli.errors import CommandError
from headrace.endpoint.errors import ConfigInvalid

ID = str(uuid.uuid4())
ISSUER = "issuer: https://login.example.org/realms/lab\naudience: headrace\n"


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def settings(
    home: Path, *auth: str, admins: tuple[str, ...] = (), environ: dict[str, str] | None = None
) -> AuthSettings:
    return auth_settings(auth, admins, home=home, environ=environ or {})


def test_with_nothing_said_the_tokens_of_the_service_are_taken(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert (found.tokens, found.globus, found.oidc, found.is_foreign) == (True, None, (), False)


def test_globus_is_read_from_the_home_from_a_file_and_from_the_environment(tmp_path: Path) -> None:
    environ = {CLIENT_ID: ID.upper(), CLIENT_SECRET: "hush"}
    from_environment = settings(tmp_path, "globus", environ=environ)
    assert from_environment.globus is not None
    assert (from_environment.globus.client_id, from_environment.globus.client_secret) == (ID, "hush")
    assert not from_environment.tokens
    written(tmp_path / "globus.yaml", f"client_id: {ID}\nclient_secret: quiet\nallowed_domains: ['*.example.org']\n")
    at_home = settings(tmp_path, "globus", "tokens", environ=environ).globus
    assert at_home is not None
    assert at_home.client_secret == "quiet"
    assert at_home.admission.domains == ("*.example.org",)
    assert at_home.needed_scope == f"https://auth.globus.org/scopes/{ID}/action_all"
    written(tmp_path / "secret", "silent\n")
    apart = written(tmp_path / "other.yaml", f"client_id: {ID}\nclient_secret_file: secret\n", 0o644)
    named = settings(tmp_path, f"globus={apart}").globus
    assert named is not None
    assert named.client_secret == "silent"
    for found in (from_environment, at_home, named):
        assert not any(secret in repr(found) for secret in ("hush", "quiet", "silent"))


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "globus.yaml", f"client_id: {ID}\nclient_secret: quiet\n", 0o640)
    with pytest.raises(KeysUnusable, match="chmod 600"):
        settings(tmp_path, "globus")
    written(tmp_path / "secret", "silent\n", 0o644)
    written(tmp_path / "globus.yaml", f"client_id: {ID}\nclient_secret_file: secret\n")
    with pytest.raises(KeysUnusable, match="chmod 600"):
        settings(tmp_path, "globus")


def test_an_issuer_is_read_with_its_defaults(tmp_path: Path) -> None:
    (found,) = settings(tmp_path, f"oidc={written(tmp_path / 'a.yaml', ISSUER, 0o644)}").oidc
    assert found.audiences == ("headrace",)
    assert found.algorithms == SIGNATURES
    assert found.user("ada") == "urn:headrace:oidc:login.example.org%2Frealms%2Flab:user:ada"
    more = ISSUER + "name: lab\nalgorithms: [ES256]\nprincipal_claim: oid\nscopes: [run]\nleeway_s: 5\n"
    (found,) = settings(tmp_path, f"oidc={written(tmp_path / 'b.yaml', more)}").oidc
    assert (found.algorithms, found.principal_claim, found.scopes, found.leeway_s) == (("ES256",), "oid", ("run",), 5.0)
    assert found.user("ada") == "urn:headrace:oidc:lab:user:ada"


@pytest.mark.parametrize(
    ("auth", "said"),
    [
        ("kerberos", "not a way to sign in"),
        ("oidc", "oidc=FILE"),
        ("tokens=x", "not a way to sign in"),
        ("globus", f"set {CLIENT_ID} and {CLIENT_SECRET}"),
    ],
)
def test_what_is_no_way_to_sign_in_is_refused(tmp_path: Path, auth: str, said: str) -> None:
    with pytest.raises(CommandError, match=said):
        settings(tmp_path, auth)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("audience: a\n", "issuer"),
        ("issuer: https://a.org\n", "audience"),
        (ISSUER + "grups_claim: g\n", "line 3: unknown key 'grups_claim'; did you mean 'groups_claim'"),
        (ISSUER + "algorithms: [HS256]\n", "line 3: algorithms/0: 'HS256' is not one of"),
        (ISSUER + "algorithms: [none]\n", "'none' is not one of"),
        ("issuer: http://login.example.org\naudience: a\n", "is not an https:// URL"),
        (ISSUER + "jwks_url: http://login.example.org/keys\n", "jwks_url: .* is not an https:// URL"),
        (ISSUER + "issuer: https://twice.org\n", "is there twice"),
    ],
)
def test_mistakes_in_an_issuer_s_file_are_named_with_their_lines(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path / "oidc.yaml", text)
    with pytest.raises((ConfigInvalid, CommandError), match=said):
        settings(tmp_path, f"oidc={path}")


def test_two_issuers_never_give_the_same_urns(tmp_path: Path) -> None:
    one = written(tmp_path / "a.yaml", ISSUER + "name: lab\n")
    with pytest.raises(CommandError, match="is there twice"):
        settings(tmp_path, f"oidc={one}", f"oidc={one}")
    other = written(tmp_path / "b.yaml", "issuer: https://elsewhere.org\naudience: a\nname: lab\n")
    with pytest.raises(CommandError, match="the same URNs"):
        settings(tmp_path, f"oidc={one}", f"oidc={other}")


def test_administrators_are_identities_of_other_systems(tmp_path: Path) -> None:
    urn = f"urn:globus:auth:identity:{ID}"
    assert settings(tmp_path, admins=(urn.upper().replace("URN", "urn", 1),)).admins == {urn}
    for wrong, said in (
        ("ada", "is not a URN"),
        ("urn:headrace:user:ada", "headrace user add --admin"),
        (f"urn:globus:groups:id:{ID}", "name their members"),
    ):
        with pytest.raises(CommandError, match=said):
            settings(tmp_path, admins=(wrong,))
