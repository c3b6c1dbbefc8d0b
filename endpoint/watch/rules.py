"""What a folder is watched for, as `watch` in `config.yaml` or the options of `headrace watch start` say it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

How = Literal["closed", "stable", "renamed", "marker"]
"""When a file is complete: nobody has it open for writing; size and time of change stand still; at once, for it got its
name when it was complete; a marker lies beside it."""

COMPLETED: Final = "headrace.file.completed"
"""The type of the event about a file that is complete, unless the rule says another."""
DELETED: Final = "headrace.file.deleted"

STABLE_S: Final[Mapping[How, float]] = {"closed": 0.5, "stable": 10.0, "renamed": 0.0, "marker": 0.0}
"""How long a file must have stood still, where the rule does not say it."""

TEMPORARY: Final = (
    "*.tmp",
    "*.temp",
    "*.part",
    "*.partial",
    "*.filepart",
    "*.crdownload",
    "*.download",
    "*.swp",
    "*~",
    "~$*",
)
"""Names of files that are not meant to stay."""

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderRule:
    """One watched folder. `folder` is absolute."""

    folder: str
    name: str
    """What the folder is called in the source of its events."""
    complete: How = "closed"
    stable_s: float = STABLE_S["closed"]
    marker: str = "{name}.done"
    """The name of the file that says that another is complete: with `{name}` or `{stem}` of that one, or one for all
    files of its directory."""
    include: tuple[str, ...] = ()
    """Empty is every file."""
    exclude: tuple[str, ...] = ()
    temporary: tuple[str, ...] = TEMPORARY
    hidden: bool = False
    recursive: bool = True
    follow_symlinks: bool = False
    checksum: bool = False
    deleted: bool = False
    existing: Literal["announce", "skip"] = "announce"
    """What becomes of files that are there when the folder is watched for the first time."""
    type: str = COMPLETED
    bus: str = "default"
    poll: Literal["auto", "always"] = "auto"
    poll_every_s: float = 5.0
    scan_every_s: float = 300.0

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> FolderRule:
        """Read what somebody wrote; it satisfies the schema."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in document.items()
        }
        fields["folder"] = os.path.abspath(os.path.expanduser(fields["folder"]))
        fields.setdefault("name", folder_name(fields["folder"]))
        fields.setdefault("stable_s", STABLE_S[fields.get("complete", "closed")])
        return cls(**fields)

    def document(self) -> dict[str, Any]:
        """What `of_document` reads."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def folder_rules(documents: Iterable[Mapping[str, Any]]) -> tuple[FolderRule, ...]:
    """The rules of several folders."""
    return tuple(map(FolderRule.of_document, documents))


def folder_name(folder: str) -> str:
    """What a folder is called that was given no name: its last part, without what a source cannot hold."""
    return _UNFIT.sub("-", os.path.basename(folder.rstrip("/"))).strip("-.") or "root"
