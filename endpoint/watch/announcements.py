"""The events about files."""

from __future__ import annotations

import base64
import datetime
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from headrace.endpoint.watch.completeness import Seen
from headrace.endpoint.watch.rules import DELETED, FolderRule

# What the attributes of an event must not hold; names of files may.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcer:
    """Makes the events of one folder."""

    rule: FolderRule
    source: str
    place: Mapping[str, str]
    """Where the folder lies, for the events' data: `endpoint`, or `host`."""

    def completed(self, path: str, seen: Seen, version: int, sha256: str | None = None) -> bytes:
        """The event that a version of a file is complete. The same version has the same id whoever makes it."""
        data: dict[str, Any] = {**self._data(path, seen), "version": version}
        if sha256 is not None:
            data["sha256"] = sha256
        return self._event(self.rule.type, path, _id("completed", path, seen), data)

    def deleted(self, path: str, seen: Seen, version: int) -> bytes:
        """The event that a file is gone, whose last version was this."""
        return self._event(DELETED, path, _id("deleted", path, seen), {**self._data(path, seen), "version": version})

    def _data(self, path: str, seen: Seen) -> dict[str, Any]:
        whole = os.path.join(self.rule.folder, path)
        data: dict[str, Any] = {
            "path": _readable(whole),
            "name": _readable(os.path.basename(path)),
            "folder": self.rule.name,
            "size": seen.size,
            "mtime": _time_text(seen.mtime_ns / 1e9),
            **self.place,
        }
        if data["path"] != whole:
            # Names are bytes, and JSON holds text: who wants to open the file needs these.
            data["path_base64"] = base64.b64encode(os.fsencode(whole)).decode()
        return data

    def _event(self, kind: str, path: str, event_id: str, data: dict[str, Any]) -> bytes:
        return _encode(
            {
                "specversion": "1.0",
                "id": event_id,
                "source": self.source,
                "type": kind,
                "subject": _UNFIT.sub("\ufffd", _readable(path)),
                "time": _time_text(datetime.datetime.now(datetime.UTC).timestamp()),
                "datacontenttype": "application/json",
                "data": data,
            }
        )


def _id(what: str, path: str, seen: Seen) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in (what.encode(), os.fsencode(path), *(str(number).encode() for number in seen)):
        # The length goes first: ("ab", "c") and ("a", "bc") must not meet.
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _readable(text: str) -> str:
    return os.fsencode(text).decode(errors="replace")


def _time_text(seconds: float) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        # Clocks of instruments are what they are.
        moment = datetime.datetime.fromtimestamp(0, datetime.UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
