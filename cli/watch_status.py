"""What watchers of files say of themselves, for people."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from headrace.cli import output


def say_watcher(name: str, document: Mapping[str, Any]) -> None:
    """One watcher, with its folders."""
    state = f"running as process {document['pid']}" if document["is_running"] else "not running"
    output.say(f"{'watcher:':13}{name}, {state}")
    for line in watcher_lines(document):
        output.say(line)


def watcher_lines(document: Mapping[str, Any]) -> list[str]:
    """The folders of a watcher, and how publishing goes."""
    lines = []
    for folder in document["folders"]:
        lines.append(f"{'folder:':13}{said_of_folder(folder, is_running=document['is_running'])}")
        lines += [f"{'':13}{problem}" for problem in folder["problems"]]
    waiting = document["unpublished"]
    if waiting or document["refused"] or document["service"]["problems"]:
        lines.append(f"{'events:':13}{waiting} wait to be published, {document['refused']} were refused")
    if document["refusal"]:
        lines.append(f"{'':13}{document['refusal']}")
    lines += [f"{'':13}{problem}" for problem in document["service"]["problems"]]
    return lines


def said_of_folder(folder: Mapping[str, Any], *, is_running: bool) -> str:
    """One line about a folder."""
    state = folder["state"] if is_running else "not watched"
    parts = [f"{folder['name']} ({folder['folder']}): {state}, {folder['announced']} announced"]
    if folder.get("candidates") and is_running:
        parts.append(f"{folder['candidates']} not complete yet")
    if folder["last_at"] is not None:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(folder["last_at"]))
        parts.append(f"the last was {folder['last_path']} at {moment}")
    return ", ".join(parts)
