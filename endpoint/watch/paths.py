"""Paths below a watched folder: parts with `/` between them; the folder itself is the empty one."""

from __future__ import annotations


def joined(directory: str, name: str) -> str:
    """The path of what has this name in a directory."""
    return f"{directory}/{name}" if directory else name


def parent(path: str) -> str:
    """The directory that a path is in."""
    return path.rpartition("/")[0]


def is_within(path: str, directory: str) -> bool:
    """Whether a path is a directory, or below it."""
    return not directory or path == directory or path.startswith(directory + "/")
