"""`headrace backup` and `headrace restore`: an installation in one file, and back."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from headrace.cli import output
from headrace.cli.errors import AlreadyRunning, CommandError, HomeUnusable
from headrace.cli.home import Home
from headrace.cli.options import DEFAULT_HOME, HomeOption, expanded

if TYPE_CHECKING:
    from headrace.bus.installation.backup import StreamCopy
    from headrace.bus.nats.connection import Connection
    from headrace.cli.archive import Archive, ArchiveWriter

_FILES: Final = ("keys/operator.json", "keys/service.json", "keys/master.key")
_FILES_IF_THERE: Final = ("admin.token", "profile.json", "ports.json", "globus.yaml", "providers.yaml")
_OF_ENDPOINTS: Final = ("config.yaml", "endpoint.json", "endpoint.token")


def backup(
    archive: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    home: HomeOption = DEFAULT_HOME,
    nats_server: Annotated[
        Path | None,
        typer.Option(help="For a home that is not up: another NATS server than the one that comes along."),
    ] = None,
) -> None:
    """Write everything durable of an installation into one file: keys, records, queued tasks, results, endpoints.

    `headrace up` may go on meanwhile. Keep the file like a key: it holds all of them.
    """
    place, path = Home(expanded(home)), expanded(archive)
    if not (place.keys / "operator.json").exists():
        raise HomeUnusable(f"{place.path} is not the home of an installation: it has no keys/operator.json")
    _run(_backup(place, path, nats_server))


def restore(
    archive: Annotated[Path, typer.Argument(help="A file that `headrace backup` wrote.")],
    home: HomeOption = DEFAULT_HOME,
    nats_server: Annotated[
        Path | None, typer.Option(help="Another NATS server than the one that comes along.", show_default=False)
    ] = None,
) -> None:
    """Make a home from a backup. The home must not exist, or be empty; nothing is written before all is checked."""
    from headrace.cli.archive import Archive

    place, path = expanded(home), expanded(archive)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise HomeUnusable(f"{place} is not empty; give --home a directory that does not exist yet")
    output.note(f"Checking {path} …")
    checked = Archive.checked(path)
    with _place_for(place) as directory:
        _write_files(checked, directory)
        _run(_restore(checked, directory, nats_server))
        _put_in_place(directory, place)
    output.say(f"Restored {place} from the backup of {checked.manifest.get('created_at')}.")
    output.note(f"Go on with: headrace up --home {shlex.quote(str(place))}")


def _run(work: Coroutine[Any, Any, None]) -> None:
    import asyncio  # a fifth of the time that any other command takes to start

    asyncio.run(work)


async def _backup(home: Home, path: Path, nats_server: Path | None) -> None:
    from headrace.bus.installation.backup import copy_stream, positions, stream_names
    from headrace.cli.archive import ArchiveWriter

    began = time.monotonic()
    with ArchiveWriter(path) as archive:
        async with _connected(home, nats_server) as connection:
            _add_files(archive, home)
            names = await stream_names(connection)
            consumers = await positions(connection, names)
            copies: list[StreamCopy] = []
            for number, name in enumerate(names, 1):
                copy = await copy_stream(connection, name, consumers[name], archive.stream(name).write)
                copies.append(copy)
                state = copy.state
                output.note(f"{number:3}/{len(names)}  {name}: {state['messages']} messages, {_size(state['bytes'])}")
            size = archive.finish(copies, _about(connection))
    output.say(f"Wrote {path}: {_size(size)} in {time.monotonic() - began:.1f} s.")


@contextlib.asynccontextmanager
async def _connected(home: Home, nats_server: Path | None) -> AsyncIterator[Connection]:
    """The bus of a home: the one that is up or, held meanwhile, one that is started for this alone."""
    from headrace.bus.installation.operator import Operator
    from headrace.bus.nats.connection import Connection

    operator = Operator.load(home.keys)
    credentials = operator.minter.core_user("backup", None)
    async with contextlib.AsyncExitStack() as stack:
        try:
            stack.enter_context(home.locked())
        except AlreadyRunning:
            url = home.running_nats_url()
        else:
            url = await stack.enter_async_context(_server(operator, home.nats, nats_server))
        yield await stack.enter_async_context(Connection([url], credentials, name="headrace backup"))


@contextlib.asynccontextmanager
async def _server(operator: Any, directory: Path, binary: Path | None) -> AsyncIterator[str]:
    from headrace.bus.installation.server import NatsServer, ServerSettings

    settings = ServerSettings(accounts=operator.accounts(), directory=directory, binary=binary)
    async with NatsServer(settings) as server:
        yield server.url


def _add_files(archive: ArchiveWriter, home: Home) -> None:
    for name in _FILES:
        archive.add_file(name, (home.path / name).read_bytes())
    names = [name for name in _FILES_IF_THERE if (home.path / name).exists()]
    for directory in sorted((home.path / "endpoints").glob("*")):
        names += [f"endpoints/{directory.name}/{name}" for name in _OF_ENDPOINTS if (directory / name).exists()]
    for name in names:
        archive.add_file(name, (home.path / name).read_bytes())


def _about(connection: Connection) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "headrace": version("headrace"),
        "nats_server": connection.server_version,
    }


@contextlib.contextmanager
def _place_for(home: Path) -> Iterator[Path]:
    """A directory beside the home, for its owner only, removed unless it was put in place."""
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(dir=home.parent, prefix=f".{home.name}.restore-"))  # 0700
    except OSError as error:
        raise HomeUnusable(f"{home} cannot be made: {error.strerror or error}") from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _write_files(archive: Archive, directory: Path) -> None:
    from headrace.bus.installation.private_files import write_private

    for name, content in archive.files():
        path = directory / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, content)


async def _restore(archive: Archive, directory: Path, nats_server: Path | None) -> None:
    from headrace.bus.installation.backup import put_back
    from headrace.bus.installation.operator import Operator
    from headrace.bus.nats.connection import Connection

    operator = Operator.load(directory / "keys")
    credentials = operator.minter.core_user("restore", None)
    chunks = _Chunks(archive.chunks())
    async with (
        _server(operator, directory / "nats", nats_server) as url,
        Connection([url], credentials, name="headrace restore") as connection,
    ):
        for number, copy in enumerate(archive.streams, 1):
            await put_back(connection, copy, chunks.of(copy.name))
            output.note(f"{number:3}/{len(archive.streams)}  {copy.name}: {copy.state['messages']} messages")


class _Chunks:
    """The chunks of all streams, one stream after another."""

    def __init__(self, chunks: Iterator[tuple[str, bytes]]) -> None:
        self._chunks = chunks
        self._next = next(chunks, None)

    def of(self, name: str) -> Iterator[bytes]:
        """Those of the stream that is next."""
        while self._next is not None and self._next[0] == name:
            chunk = self._next[1]
            self._next = next(self._chunks, None)
            yield chunk


def _put_in_place(directory: Path, home: Path) -> None:
    # What the server wrote for its start here names a directory that is about to go.
    for leftover in ("nats.conf", "nats.pid", "nats-start.log"):
        (directory / "nats" / leftover).unlink(missing_ok=True)
    try:
        os.rename(directory, home)  # in the place of an empty directory too
    except OSError as error:
        raise CommandError(f"{home} cannot be made: {error.strerror or error}") from error


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1024 or unit == "GB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
