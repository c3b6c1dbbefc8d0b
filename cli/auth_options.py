"""`--auth` and `--admin`: who may sign in to the service, and how. Secrets come from files or the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from headrace.cli.errors import CommandError

if TYPE_CHECKING:
    from headrace.action_provider.auth.settings import Admission, AuthSettings, GlobusSettings, OidcSettings

AuthOption = Annotated[
    list[str] | None,
    typer.Option(
        "--auth",
        metavar="tokens|globus[=FILE]|oidc=FILE",
        help="Whose tokens are taken: the built-in ones, those of Globus Auth, those of an OpenID Connect issuer. May"
        " be repeated; by default `tokens`. FILE is YAML, for globus by default HOME/globus.yaml.",
        show_default=False,
    ),
]

AdminOption = Annotated[
    list[str] | None,
    typer.Option(
        "--admin",
        metavar="URN",
        help="An identity of another system that is an administrator. May be repeated.",
        show_default=False,
    ),
]

CLIENT_ID: Final = "HEADRACE_GLOBUS_CLIENT_ID"
CLIENT_SECRET: Final = "HEADRACE_GLOBUS_CLIENT_SECRET"  # noqa: S105  # the name of a variable
_FORMS: Final = "the forms are tokens, globus, globus=FILE and oidc=FILE"


def auth_settings(
    chosen: Sequence[str] | None,
    admins: Sequence[str] | None,
    *,
    home: Path,
    ca_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> AuthSettings:
    """What the options say. Raises `CommandError`, and `ConfigInvalid` and `KeysUnusable` for their files."""
    from dataclasses import replace

    from headrace.action_provider.auth.settings import AuthSettings
    from headrace.bus.network import Network

    tokens, globus, issuers = False, None, []
    for text in chosen or ("tokens",):
        kind, _, file = text.partition("=")
        path = Path(file).expanduser().absolute() if file else None
        match kind:
            case "tokens" if path is None:
                tokens = True
            case "globus":
                globus = _globus(path or home / "globus.yaml", environ, named=path is not None)
            case "oidc" if path is not None:
                issuers.append(_oidc(path))
            case _:
                raise CommandError(f"--auth {text!r} is not a way to sign in; {_FORMS}")
    _check_issuers(issuers)
    network = Network.of_environment(environ)
    return AuthSettings(
        tokens=tokens,
        globus=globus,
        oidc=tuple(issuers),
        network=network if ca_file is None else replace(network, ca_file=ca_file),
        admins=_admins(admins or ()),
    )


def _globus(path: Path, environ: Mapping[str, str], *, named: bool) -> GlobusSettings:
    from headrace.action_provider.auth.settings import GlobusSettings

    client_id, secret = environ.get(CLIENT_ID), environ.get(CLIENT_SECRET)
    if not named and not path.exists():
        if not (client_id and secret):
            raise CommandError(
                f"--auth globus needs the service's client at Globus Auth: write {path}, with client_id and"
                f" client_secret, or set {CLIENT_ID} and {CLIENT_SECRET}"
            )
        said: dict[str, Any] = {"client_id": client_id}
    else:
        said = _document(path, "auth-globus")
        secret = _secret(path, said) or secret
    if not secret:
        raise CommandError(f"{path} has no client_secret and no client_secret_file, and {CLIENT_SECRET} is not set")
    return GlobusSettings(
        client_id=str(said["client_id"]).lower(),
        client_secret=secret,
        scope=said.get("scope", ""),
        admission=_admission(said),
    )


def _oidc(path: Path) -> OidcSettings:
    from headrace.action_provider.auth.settings import SIGNATURES, OidcSettings

    said = _document(path, "auth-oidc")
    audience = said["audience"]
    settings = OidcSettings(
        issuer=said["issuer"],
        audiences=(audience,) if isinstance(audience, str) else tuple(audience),
        name=said.get("name", ""),
        principal_claim=said.get("principal_claim", "sub"),
        username_claim=said.get("username_claim", ""),
        groups_claim=said.get("groups_claim", "groups"),
        scopes=tuple(said.get("scopes", ())),
        algorithms=tuple(said.get("algorithms", SIGNATURES)),
        jwks_url=said.get("jwks_url", ""),
        leeway_s=float(said.get("leeway_s", 30.0)),
        admission=_admission(said),
    )
    _check_encrypted(path, "issuer", settings.issuer)
    if settings.jwks_url:
        _check_encrypted(path, "jwks_url", settings.jwks_url)
    return settings


def _document(path: Path, schema: str) -> dict[str, Any]:
    from headrace.bus.installation.private_files import read_private
    from headrace.endpoint.configuration.yaml_file import YamlFile, read_text

    file = YamlFile.parse(read_text(path), name=str(path))
    file.check(schema)
    if "client_secret" in file.document:
        read_private(path)
    return file.document


def _secret(path: Path, said: Mapping[str, Any]) -> str | None:
    from headrace.bus.installation.private_files import read_private

    if "client_secret_file" not in said:
        return said.get("client_secret")
    if "client_secret" in said:
        raise CommandError(f"{path} has both client_secret and client_secret_file; leave one of them out")
    secret = read_private(path.parent / Path(said["client_secret_file"]).expanduser()).decode().strip()
    if not secret:
        raise CommandError(f"{path}: the file that client_secret_file names is empty")
    return secret


def _admission(said: Mapping[str, Any]) -> Admission:
    from headrace.action_provider.auth.settings import Admission
    from headrace.bus.urns import canonical_set

    return Admission(urns=canonical_set(said.get("allowed", ())), domains=tuple(said.get("allowed_domains", ())))


def _admins(urns: Sequence[str]) -> frozenset[str]:
    from headrace.bus.urns import USER_URN, canonical_set, is_globus_group
    from headrace.schemas import SchemaViolation, validate

    for urn in urns:
        try:
            validate("urn", urn)
        except SchemaViolation:
            raise CommandError(f"--admin {urn!r} is not a URN such as urn:globus:auth:identity:UUID") from None
        if urn.startswith(USER_URN):
            raise CommandError(f"--admin {urn}: a user of this service becomes one by `headrace user add --admin`")
        if is_globus_group(urn):
            raise CommandError(f"--admin {urn}: groups of Globus cannot be administrators; name their members")
    return canonical_set(urns)


def _check_encrypted(path: Path, key: str, url: str) -> None:
    from headrace.bus.hosts import is_loopback

    parts = urlsplit(url)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise CommandError(f"{path}: {key}: {url} is not an https:// URL: others could answer in its place")


def _check_issuers(issuers: Sequence[OidcSettings]) -> None:
    for place, one in enumerate(issuers):
        for other in issuers[:place]:
            if one.issuer == other.issuer:
                raise CommandError(f"--auth oidc: {one.issuer} is there twice; give all its audiences in one file")
            if one.urn == other.urn:
                raise CommandError(
                    f"--auth oidc: {one.issuer} and {other.issuer} would give their users the same URNs ({one.urn}…);"
                    " give one of them another name"
                )
