"""What people give to options: files, JSON, durations and names of who may."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from headrace.bus.durations import parse_duration
from headrace.cli.errors import CommandError

PUBLIC: Final = "public"


def read_text(path: Path) -> str:
    """A file's text, or that of standard input for `-`. Raises `CommandError`."""
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} cannot be read: it is no text in UTF-8 ({error})") from error


def read_document(path: Path) -> Any:
    """A file's JSON or YAML. Raises `CommandError` with the line."""
    import yaml

    from headrace.bus.plain_yaml import plain_loader

    text = read_text(path)
    try:
        # YAML includes JSON, but turns what looks like a date into one, which JSON cannot carry.
        if text.lstrip().startswith(("{", "[")):
            return json.loads(text)
        return yaml.load(text, Loader=plain_loader())  # noqa: S506 - it is the safe loader, with less
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise CommandError(f"{path}{place}: not valid YAML: {error.problem or error.context}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise CommandError(f"{path} is neither JSON nor YAML: {error}") from error


def document_of(path: Path | None, what: str, keys: str) -> dict[str, Any]:
    """The object in a file, `{}` without one; `what` and `keys` are for people. Raises `CommandError`."""
    document = {} if path is None else read_document(path)
    if not isinstance(document, dict):
        raise CommandError(f"{path} does not hold {what}: expected an object with {keys} …")
    return document


def json_option(text: str | None, option: str) -> Any:
    """The value of an option that holds JSON, `@FILE` for a file with it. Raises `CommandError`."""
    if text is None:
        return None
    if text.startswith("@"):
        return read_document(Path(text[1:]))
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandError(f"{option} is not JSON: {error}; it was {text!r}") from error


def json_given(**options: str | None) -> dict[str, Any]:
    """The values of those JSON options that somebody has given; `null` is one. Raises `CommandError`."""
    return {name: json_option(text, f"--{name}") for name, text in options.items() if text is not None}


def duration_s(text: str, option: str) -> float:
    """Seconds of `90s`, `15m`, `12h`, `30d`. Raises `CommandError`, which names the option."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = 0.0
    if not seconds:
        raise CommandError(f"{option} {text!r} is not a duration: write for example 90s, 15m, 12h or 30d")
    return seconds


def urn_of(text: str) -> str:
    """The URN of a user (`ada`), a group (`group:lab`) or everybody (`public`). Raises `CommandError`."""
    if text == PUBLIC or text.startswith("urn:"):
        return text
    kind, colon, name = text.partition(":")
    if not colon:
        return f"urn:headrace:user:{text}"
    if kind not in ("user", "group"):
        raise CommandError(f"{text!r} is neither a user (ada), a group (group:lab), a URN, nor `{PUBLIC}`")
    return f"urn:headrace:{kind}:{name}"


def given(**options: Any) -> dict[str, Any]:
    """Those that somebody has given."""
    return {name: value for name, value in options.items() if value is not None}
