"""What a schema cannot say about `watch` in `config.yaml`."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.endpoint.configuration.yaml_file import YamlFile
from headrace.endpoint.watch.notices import INSTALL, can_hear
from headrace.endpoint.watch.rules import folder_rules


def watch_problems(file: YamlFile) -> list[str]:
    """What is wrong with the watched folders, with their lines."""
    return list(_problems(file))


def _problems(file: YamlFile) -> Iterator[str]:
    documents = file.document.get("watch") or []
    names: dict[str, int] = {}
    for place, rule in enumerate(folder_rules(documents)):
        where = f"{file.at(f'/watch/{place}')}: watch/{place}"
        if rule.name in names:
            problem = (
                f"the folder's name {rule.name!r} is that of watch/{names[rule.name]}; give one of them another `name`"
            )
            yield f"{where}: {problem}"
        names.setdefault(rule.name, place)
        if "marker" in documents[place] and rule.complete != "marker":
            yield f"{where}: `marker` needs `complete: marker`"
        if rule.poll == "auto" and not can_hear():
            yield f"{where}: to hear of changes needs `{INSTALL}` here; or write `poll: always`"
