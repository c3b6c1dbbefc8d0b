"""`--providers`: whom the action providers of a service are for, and how long actions may last."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.errors import CommandError

if TYPE_CHECKING:
    from headrace.action_provider.provider_access import Access

ProvidersOption = Annotated[
    Path | None,
    typer.Option(
        "--providers",
        metavar="FILE",
        help="Who may use the action providers, and how long actions may last. YAML; by default HOME/providers.yaml,"
        " where that is there.",
        show_default=False,
    ),
]


def provider_settings(named: Path | None, *, home: Path) -> dict[str, Any]:
    """The fields of `ServiceSettings` that the file says. Raises `CommandError` and `ConfigInvalid`."""
    path = named.expanduser().absolute() if named else home / "providers.yaml"
    if named is None and not path.exists():
        return {}
    from headrace.action_provider.providers.requests import duration_s
    from headrace.endpoint.configuration.yaml_file import YamlFile, read_text

    file = YamlFile.parse(read_text(path), name=str(path))
    file.check("providers-config")
    said = file.document
    fields: dict[str, Any] = {"provider_access": _access(path, said.get("access", {}))}
    if "admin_contact" in said:
        fields["admin_contact"] = said["admin_contact"]
    for key in ("longest_action", "longest_release_after"):
        if key in said:
            fields[f"{key}_s"] = _positive(path, key, duration_s(said[key]))
    return fields


def _access(path: Path, said: dict[str, Any]) -> dict[str, Access]:
    from headrace.action_provider.provider_access import PUBLIC, Access
    from headrace.action_provider.providers import PROVIDERS

    paths = {provider.path for provider in PROVIDERS.providers}
    access = {}
    for address, each in said.items():
        # As in an address: the form of a provider for many addresses is written without the kind of its parameters.
        known = next((form for form in paths if form.replace(":uuid", "") == address.rstrip("/")), None)
        if known is None:
            forms = ", ".join(sorted(form.replace(":uuid", "") for form in paths))
            raise CommandError(f"{path}: access: there is no provider {address}; there are {forms}")
        if each.get("runnable_by") == PUBLIC:
            raise CommandError(
                f"{path}: access: {address}: runnable_by: an action has somebody who started it; write"
                " all_authenticated_users"
            )
        lists = {name: (who,) if isinstance(who, str) else tuple(who) for name, who in each.items()}
        access[known] = Access(**lists)
    return access


def _positive(path: Path, key: str, seconds: float) -> float:
    if seconds < 1:
        raise CommandError(f"{path}: {key}: at least a second is needed")
    return seconds
