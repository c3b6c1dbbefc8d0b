"""All that an endpoint's directory says about its configuration, read at one moment.

config.yaml                     the endpoint, and what all its pools have in common
user_config_template.yaml.j2    with it, each pool is what this template gives for a user's options, also for none
user_config_schema.json         what options the template takes
user_environment.yaml           variables that all pools find in their environment
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from headrace.endpoint.config import EndpointConfig
from headrace.endpoint.configuration.options import check_options
from headrace.endpoint.configuration.pool_config import PoolConfig
from headrace.endpoint.configuration.runtime import own_runtime
from headrace.endpoint.configuration.templates import Templates
from headrace.endpoint.configuration.yaml_file import YamlFile, read_text
from headrace.endpoint.errors import ConfigInvalid, OptionsInvalid
from headrace.endpoint.identity_mapping import IdentityMapping
from headrace.schemas import SchemaViolation, check_schema

CONFIG_FILE: Final = "config.yaml"
TEMPLATE_FILE: Final = "user_config_template.yaml.j2"
SCHEMA_FILE: Final = "user_config_schema.json"
ENVIRONMENT_FILE: Final = "user_environment.yaml"
OPTIONS_DEMANDED: Final = "this endpoint takes no task without options (user_endpoint_config)"
"""How the refusal of a template that cannot do without options begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationFiles:
    """An endpoint's configuration. It stays as it was read, whatever becomes of the files."""

    directory: Path
    config: EndpointConfig
    config_document: Mapping[str, Any]
    """What `config.yaml` says, for the template's `_GC.parent_config`."""
    notes: tuple[str, ...] = ()
    """What `config.yaml` says and has no effect, and why."""
    templates: Templates | None = None
    schema: Mapping[str, Any] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    identities: IdentityMapping | None = None
    """Who is which local user, where pools run as such."""

    @classmethod
    def read(cls, directory: Path) -> ConfigurationFiles:
        """Read the files of an endpoint's directory. Raises `ConfigInvalid`, naming file, line and problem."""
        path = directory / CONFIG_FILE
        text = read_text(path)
        config = EndpointConfig.parse(text, name=str(path))
        file = YamlFile.parse(text, name=str(path))
        return cls(
            directory=directory,
            config=config,
            config_document=file.document,
            notes=tuple(file.without_effect("endpoint-config")),
            templates=_templates(directory, config),
            schema=_schema(directory, config),
            environment=_environment(directory / ENVIRONMENT_FILE),
            identities=_identities(directory, config),
        )

    @property
    def takes_options(self) -> bool:
        """Whether users may give options at all."""
        return self.templates is not None

    def render(
        self,
        options: Mapping[str, Any],
        *,
        user_runtime: Mapping[str, Any] | None = None,
        mapped_identity: Mapping[str, Any] | None = None,
    ) -> str:
        """The YAML text of a pool for these options; empty when there is no template, and no options either.

        Raises `OptionsInvalid`, which is for the user to read, and `TemplateInvalid`, which is for the administrator.
        """
        if self.templates is None:
            if options:
                names = ", ".join(map(repr, options))
                raise OptionsInvalid(f"this endpoint takes no options (given: {names}): it has no {TEMPLATE_FILE}")
            return ""
        from headrace.endpoint.configuration.rendering import render  # Jinja2 takes a while to load

        check_options(options, self.schema)
        reserved = {
            "parent_config": self.config_document,
            "user_runtime": user_runtime or {},
            "mapped_identity": mapped_identity or {},
            "env": self.environment,
        }
        return render(self.templates, options, reserved)

    def pool(
        self,
        options: Mapping[str, Any],
        *,
        user_runtime: Mapping[str, Any] | None = None,
        mapped_identity: Mapping[str, Any] | None = None,
    ) -> PoolConfig:
        """The configuration of a pool for these options. Raises what `render` does, and `ConfigInvalid`."""
        text = self.render(options, user_runtime=user_runtime, mapped_identity=mapped_identity)
        defaults = PoolConfig.of_endpoint(self.config, self.environment)
        return defaults if self.templates is None else defaults.parse(text, name=f"{self.templates.main}, rendered")

    def default_pool(self) -> tuple[PoolConfig, str | None]:
        """The configuration of the pool for whoever gives no options, and why nothing may run there.

        That is when the template demands options: what it demands, nobody gets around. Raises `ConfigInvalid`.
        """
        if self.identities is not None:
            nothing = PoolConfig(workers=1, log_level=self.config.log_level)
            return nothing, "at this endpoint everybody has a pool of their own; submit the task again"
        try:
            return self.pool({}, user_runtime=own_runtime()), None
        except OptionsInvalid as error:
            nothing = PoolConfig(workers=1, log_level=self.config.log_level)
            return nothing, f"{OPTIONS_DEMANDED}: {error}"


def _templates(directory: Path, config: EndpointConfig) -> Templates | None:
    given = config.user_config_template_path
    if given is not None:
        path = directory / Path(given).expanduser()
        if not path.is_file():
            raise ConfigInvalid(f"{directory / CONFIG_FILE}: user_config_template_path: there is no file {path}")
    else:
        # Without the .j2 it is the name that Globus Compute used before.
        names = (TEMPLATE_FILE, TEMPLATE_FILE.removesuffix(".j2"))
        found = [directory / name for name in names if (directory / name).is_file()]
        if not found:
            return None
        path = found[0]
    from headrace.endpoint.configuration.rendering import check_syntax

    templates = Templates.read(path)
    check_syntax(templates)
    return templates


def _schema(directory: Path, config: EndpointConfig) -> Mapping[str, Any] | None:
    given = config.user_config_schema_path
    path = directory / (Path(given).expanduser() if given is not None else SCHEMA_FILE)
    if given is None and not path.exists():
        return None
    try:
        described: Any = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ConfigInvalid(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}"
        ) from error
    if not isinstance(described, dict):
        raise ConfigInvalid(f"{path}, line 1: a schema is a JSON object")
    try:
        check_schema(described)
    except SchemaViolation as error:
        raise ConfigInvalid(
            "\n".join(f"{path}: {each.pointer or '/'}: {each.problem}" for each in error.violations)
        ) from error
    return described


def _identities(directory: Path, config: EndpointConfig) -> IdentityMapping | None:
    given = config.identity_mapping_config_path
    if given is None:
        return None
    where = f"{directory / CONFIG_FILE}: identity_mapping_config_path"
    if not config.environments.is_off:
        raise ConfigInvalid(f"{where}: `environments` must be off with it: root would build what users ask for")
    return IdentityMapping.read(directory / Path(given).expanduser())


def _environment(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    file = YamlFile.parse(read_text(path), name=str(path))
    file.check("user-environment")
    return {name: str(value) for name, value in file.document.items()}
