"""What differs between two readings of an endpoint's configuration, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from headrace.endpoint.configuration.files import CONFIG_FILE, ENVIRONMENT_FILE, ConfigurationFiles

_MOST_SHOWN: Final = 60


def changes(before: ConfigurationFiles, after: ConfigurationFiles) -> list[str]:
    """One sentence for each change. Values of variables may be secret: they are not shown."""
    return [
        *_of_keys(CONFIG_FILE, before.config_document, after.config_document),
        *_of_templates(before, after),
        *(["the schema of the options is changed"] if before.schema != after.schema else []),
        *(["who is which local user is changed"] if before.identities != after.identities else []),
        *_of_names(ENVIRONMENT_FILE, before.environment, after.environment),
    ]


def _of_keys(file: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(before.keys() | after.keys()):
        if key == "environment":
            yield from _of_names(f"{file}: environment", before.get(key, {}), after.get(key, {}))
        elif key not in after:
            yield f"{file}: {key} is gone (it was {_shown(before[key])})"
        elif key not in before:
            yield f"{file}: {key} is new: {_shown(after[key])}"
        elif before[key] != after[key]:
            yield f"{file}: {key} is {_shown(after[key])} (it was {_shown(before[key])})"


def _of_names(file: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"{file}: {name} is {_how(name, before, after)}"


def _of_templates(before: ConfigurationFiles, after: ConfigurationFiles) -> Iterator[str]:
    old, new = before.templates, after.templates
    if new is None:
        if old is not None:
            yield f"{old.main.name} is gone: users can give no options any more"
    elif old is None:
        yield f"{new.main.name} is new: users can give options"
    else:
        for name in sorted(old.texts.keys() | new.texts.keys()):
            if name not in (CONFIG_FILE, ENVIRONMENT_FILE) and old.texts.get(name) != new.texts.get(name):
                yield f"{name} is {_how(name, old.texts, new.texts)}"


def _how(name: str, before: Mapping[str, str], after: Mapping[str, str]) -> str:
    if name not in after:
        return "gone"
    return "changed" if name in before else "new"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} …"
