"""The file of a backup: a tar archive of one's own kind, read and written in one pass, with bounded memory.

    headrace-backup.json      {"format", "version"}: what this file is
    home/keys/operator.json   … the files of the home that cannot be made again
    streams/TASKS/00000001    … the server's copies of the streams, in chunks
    manifest.json             sizes and SHA-256 of all of them; the last one, so a file without it is not whole

Whatever has another name is refused: nothing in an archive says where it is to be written.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from headrace.bus.installation.backup import StreamCopy
from headrace.bus.installation.private_files import sync_directory
from headrace.cli.errors import ArchiveUnusable, CommandError

FORMAT: Final = "headrace-backup"
VERSION: Final = 1

_HEAD: Final = "headrace-backup.json"
_MANIFEST: Final = "manifest.json"
_FILE = re.compile(
    r"home/(keys/(operator|service)\.json|keys/master\.key|admin\.token|profile\.json|ports\.json|globus\.yaml|providers\.yaml)"
)
_ENDPOINT_FILE = re.compile(r"home/endpoints/[A-Za-z0-9][A-Za-z0-9._-]{0,127}/(config\.yaml|endpoint\.(json|token))")
_CHUNK = re.compile(r"(streams/[A-Za-z0-9_-]{1,200})/\d{8,12}")
_MOST_FILE_BYTES = 64 * 1024 * 1024


class ArchiveWriter:
    """Writes an archive beside its place, readable by its owner only, and puts it there when it is whole.

    `with ArchiveWriter(path) as archive: …; archive.finish(…)`; what was not finished is removed.
    Raises `CommandError`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, dict[str, Any]] = {}
        self._streams: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        if self._path.exists():
            raise CommandError(f"{self._path} exists already, and is not overwritten; give another name")
        try:
            handle, self._temporary = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")  # 0600
        except OSError as error:
            raise CommandError(f"{self._path} cannot be written: {error.strerror or error}") from error
        self._file: IO[bytes] = os.fdopen(handle, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w|", format=tarfile.PAX_FORMAT)
        self._add(_HEAD, json.dumps({"format": FORMAT, "version": VERSION}).encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        Path(self._temporary).unlink(missing_ok=True)

    def add_file(self, name: str, content: bytes) -> None:
        """A file of the home, by its path in it."""
        name = f"home/{name}"
        self._entries[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        self._add(name, content)

    def stream(self, name: str) -> StreamWriter:
        """Takes the chunks of a stream's copy."""
        return StreamWriter(self, f"streams/{name}")

    def finish(self, streams: list[StreamCopy], about: dict[str, Any]) -> int:
        """Write the manifest and put the file in its place; its size in bytes."""
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            **about,
            "entries": self._entries,
            "streams": [asdict(stream) for stream in streams],
        }
        try:
            self._add(_MANIFEST, json.dumps(manifest).encode())
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            size = self._file.tell()
            # A link and not a renaming: it fails where somebody was quicker.
            os.link(self._temporary, self._path)
            sync_directory(self._path.parent)
        except FileExistsError:
            raise CommandError(f"{self._path} exists by now, and is not overwritten; give another name") from None
        except OSError as error:
            raise CommandError(f"{self._path} cannot be written: {error.strerror or error}") from error
        return size

    def _add(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o600
        try:
            self._tar.addfile(info, io.BytesIO(content))
        except OSError as error:
            raise CommandError(f"{self._path} cannot be written: {error.strerror or error}") from error


class StreamWriter:
    """Writes the chunks of one stream into an archive."""

    def __init__(self, archive: ArchiveWriter, name: str) -> None:
        self._archive = archive
        self._name = name
        self._chunks = 0
        self._digest = hashlib.sha256()
        self._entry = archive._entries.setdefault(name, {"size": 0, "sha256": self._digest.hexdigest()})

    def write(self, chunk: bytes) -> None:
        """The next chunk. Raises `CommandError`."""
        self._chunks += 1
        self._digest.update(chunk)
        self._archive._add(f"{self._name}/{self._chunks:08d}", chunk)
        self._entry["size"] += len(chunk)
        self._entry["sha256"] = self._digest.hexdigest()


class Archive:
    """An archive that was checked whole: `Archive.checked(path)`."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self._path = path
        self.manifest = manifest
        self.streams = [_stream_copy(path, each) for each in manifest["streams"]]

    @classmethod
    def checked(cls, path: Path) -> Archive:
        """Read a file from end to end and compare everything with its manifest. Raises `ArchiveUnusable`."""
        found: dict[str, dict[str, Any]] = {}
        digests: dict[str, Any] = {}
        manifest: dict[str, Any] | None = None
        for name, content in _members(path):
            if manifest is not None:
                raise _damaged(path, f"{name!r} comes after its end")
            if name == _MANIFEST:
                manifest = _document(path, content, name)
            elif name != _HEAD:
                whole = _entry_of(path, name)
                digest = digests.setdefault(whole, hashlib.sha256())
                digest.update(content)
                entry = found.setdefault(whole, {"size": 0})
                entry["size"] += len(content)
                entry["sha256"] = digest.hexdigest()
        if manifest is None:
            raise ArchiveUnusable(f"{path} is not whole: it ends before its manifest; use another backup")
        _compare(path, found, manifest)
        return cls(path, manifest)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """The files of the home, by their paths in it."""
        for name, content in _members(self._path):
            if name.startswith("home/"):
                yield name.removeprefix("home/"), content
            elif name.startswith("streams/"):
                return  # they come first

    def chunks(self) -> Iterator[tuple[str, bytes]]:
        """The chunks of all streams, in the order of `streams`, each with the name of its stream."""
        for name, content in _members(self._path):
            if name.startswith("streams/"):
                yield name.split("/")[1], content


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents; the first is checked to be that of a backup."""
    try:
        with tarfile.open(path, mode="r|") as tar:
            first = True
            for member in tar:
                if not member.isreg() or member.size > _MOST_FILE_BYTES:
                    raise _damaged(path, f"{member.name[:80]!r} is nothing that a backup holds")
                file = tar.extractfile(member)
                content = file.read() if file is not None else b""
                if first and member.name != _HEAD:
                    raise ArchiveUnusable(f"{path} is not a backup of Headrace: it begins with {member.name[:80]!r}")
                if first:
                    _check_version(path, _document(path, content, _HEAD))
                first = False
                yield member.name, content
    except tarfile.TarError as error:
        raise ArchiveUnusable(f"{path} is not a backup of Headrace, or a damaged one: {error}") from error
    except OSError as error:
        raise ArchiveUnusable(f"{path} cannot be read: {error.strerror or error}") from error


def _entry_of(path: Path, name: str) -> str:
    """The entry of the manifest that a member belongs to: a file, or the stream of a chunk."""
    if _FILE.fullmatch(name) or (_ENDPOINT_FILE.fullmatch(name) and ".." not in name):
        return name
    chunk = _CHUNK.fullmatch(name)
    if chunk is None:
        raise _damaged(path, f"{name[:80]!r} is nothing that a backup holds")
    return chunk[1]


def _compare(path: Path, found: dict[str, dict[str, Any]], manifest: dict[str, Any]) -> None:
    _check_version(path, manifest)
    entries, streams = manifest.get("entries"), manifest.get("streams")
    if not isinstance(entries, dict) or not isinstance(streams, list):
        raise _damaged(path, "its manifest is not complete")
    for name in sorted(entries.keys() | found.keys()):
        if found.get(name) != entries.get(name):
            problem = "is missing" if name not in found else "is not what was written"
            raise _damaged(path, f"{name!r} {problem}")


def _check_version(path: Path, document: dict[str, Any]) -> None:
    if document.get("format") != FORMAT:
        raise ArchiveUnusable(f"{path} is not a backup of Headrace")
    if document.get("version") != VERSION:
        raise ArchiveUnusable(
            f"{path} is a backup of version {document.get('version')!r}; this release reads version {VERSION}: use the"
            " release that made it, or a later one"
        )


def _document(path: Path, content: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError as error:
        raise _damaged(path, f"{name!r} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise _damaged(path, f"{name!r} is not an object")
    return document


def _stream_copy(path: Path, document: dict[str, Any]) -> StreamCopy:
    try:
        return StreamCopy(**{**document, "consumers": tuple(document["consumers"])})
    except (TypeError, KeyError) as error:
        raise _damaged(path, f"its manifest is not complete ({error})") from error


def _damaged(path: Path, problem: str) -> ArchiveUnusable:
    return ArchiveUnusable(f"{path} is damaged: {problem}; use another backup")
