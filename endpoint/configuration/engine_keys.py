"""The `engine:` of a configuration file, checked by the engines, with the lines of what is wrong."""

from __future__ import annotations

from headrace.endpoint.configuration.yaml_file import YamlFile, escaped
from headrace.endpoint.engines.settings import engine_settings
from headrace.endpoint.errors import EngineSettingsInvalid


def engine_problems(file: YamlFile) -> list[str]:
    """What is wrong under `engine`, each with its line."""
    try:
        engine_settings(file.document.get("engine"))
    except EngineSettingsInvalid as error:
        return [f"{file.at(_pointer(each.path))}: {each}" for each in error.problems]
    return []


def _pointer(path: tuple[str, ...]) -> str:
    return "".join(f"/{escaped(str(key))}" for key in path)
