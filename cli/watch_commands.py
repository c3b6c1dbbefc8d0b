"""`headrace watch`: announce files of a folder, on machines with or without an endpoint."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer

from headrace.cli import output
from headrace.cli.endpoint_commands import profile_of
from headrace.cli.errors import CommandError
from headrace.cli.options import DEFAULT_HOME, HomeOption, expanded
from headrace.cli.service import JsonOption
from headrace.cli.values import given
from headrace.cli.watch_status import say_watcher

if TYPE_CHECKING:
    from headrace.endpoint.watch.rules import FolderRule

app = typer.Typer(help="Announce the files of a folder by events.", no_args_is_help=True)

_STOPPED: Final = 3


@app.command()
def start(
    folder: Annotated[Path, typer.Argument(help="The folder.")],
    name: Annotated[
        str | None, typer.Option(help="What it is called in the events' source; by default its last part.")
    ] = None,
    type_: Annotated[
        str | None, typer.Option("--type", help="The type of the events; by default headrace.file.completed.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="The events' source; by default /hosts/HOST/folders/NAME.")] = None,
    bus: Annotated[str | None, typer.Option(help="The bus that they are published on.")] = None,
    complete: Annotated[
        str | None,
        typer.Option(help="When a file is complete: closed (the default), stable, renamed, or marker."),
    ] = None,
    stable: Annotated[
        float | None, typer.Option(help="For how many seconds it must have stood still: 0.5, with `stable` 10.")
    ] = None,
    marker: Annotated[
        str | None, typer.Option(help="The name of the file that marks another as complete, such as {name}.done.")
    ] = None,
    include: Annotated[list[str] | None, typer.Option(help="Files that count, such as '*.tif'; repeatable.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Files and directories that do not count; repeatable.")
    ] = None,
    hidden: Annotated[bool, typer.Option("--hidden", help="Names that begin with a dot count as well.")] = False,
    flat: Annotated[bool, typer.Option("--flat", help="Directories below the folder do not count.")] = False,
    follow_symlinks: Annotated[bool, typer.Option("--follow-symlinks", help="Follow links.")] = False,
    checksum: Annotated[bool, typer.Option("--checksum", help="Events have the SHA-256 of the file.")] = False,
    deleted: Annotated[bool, typer.Option("--deleted", help="Announce files that are gone, too.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Do not announce what is there at the very first start.")
    ] = False,
    poll_every: Annotated[
        float | None, typer.Option(help="Look every so many seconds instead of waiting for the kernel to tell.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Announce each file of a folder once it is complete, until Ctrl-C. Files that come meanwhile are announced at the
    next start, and nothing twice: what was announced is kept in HOME/watch/NAME."""
    rule = _rule(
        given(
            folder=str(folder.expanduser().absolute()),
            name=name,
            type=type_,
            bus=bus,
            complete=complete,
            stable_s=stable,
            marker=marker,
            include=include or None,
            exclude=exclude or None,
            hidden=hidden,
            recursive=not flat,
            follow_symlinks=follow_symlinks,
            checksum=checksum,
            deleted=deleted,
            existing="skip" if skip_existing else None,
            poll="always" if poll_every is not None else None,
            poll_every_s=poll_every,
        )
    )
    _check(rule)
    _run(rule, source, expanded(home))


def _rule(document: dict[str, Any]) -> FolderRule:
    from headrace.endpoint.watch.rules import FolderRule
    from headrace.schemas import SchemaViolation, validate

    try:
        validate("watch-folder", document)
    except SchemaViolation as error:
        raise CommandError(
            "\n".join(f"{each.pointer.lstrip('/')}: {each.problem}" for each in error.violations)
        ) from error
    return FolderRule.of_document(document)


def _check(rule: FolderRule) -> None:
    from headrace.endpoint.watch.notices import INSTALL, can_hear

    if not Path(rule.folder).is_dir():
        raise CommandError(f"{rule.folder} is no folder that can be watched")
    if rule.poll == "auto" and not can_hear():
        raise CommandError(f"to hear of changes run `{INSTALL}`; or look again and again with --poll-every SECONDS")


def _run(rule: FolderRule, source: str | None, home: Path) -> None:
    import signal

    from headrace.endpoint.watch.watcher import Watcher, WatcherSettings

    profile = profile_of(home)
    host = socket.gethostname()
    output.configure_logging()
    watcher = Watcher(
        WatcherSettings(
            url=profile.url,
            token=lambda: profile.token,
            directory=home / "watch" / rule.name,
            sources={rule.name: source or f"/hosts/{quote(host)}/folders/{rule.name}"},
            place={"host": host},
            rules=(rule,),
            network=profile.network,
        )
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: watcher.stop())
    output.note(f"Watching {rule.folder}. Ctrl-C ends it; `headrace watch status {rule.name}` says how it does.")
    watcher.run()


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="The folder's name; by default all of this home.")] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show what watchers of this home do, those of its endpoints among them.

    Status 0: all that are shown run. 3: one does not run.
    """
    found = dict(_watchers(expanded(home)))
    if name is not None:
        if name not in found:
            names = ", ".join(found) or "none"
            raise CommandError(f"there is no watcher {name!r} in {expanded(home)} (there: {names})")
        found = {name: found[name]}
    if as_json:
        output.say_json(found)
    elif not found:
        output.note("(none)")
    else:
        for place, (each, document) in enumerate(found.items()):
            if place:
                output.say()
            say_watcher(each, document)
    if not all(document["is_running"] for document in found.values()):
        sys.exit(_STOPPED)


def _watchers(home: Path) -> list[tuple[str, dict[str, Any]]]:
    from headrace.endpoint.watch.report import STATUS_FILE, read_status

    alone = [(path.parent.name, path) for path in sorted(home.glob(f"watch/*/{STATUS_FILE}"))]
    of_endpoints = [
        (f"endpoint {path.parents[1].name}", path) for path in sorted(home.glob(f"endpoints/*/watch/{STATUS_FILE}"))
    ]
    read = [(name, read_status(path)) for name, path in (*alone, *of_endpoints)]
    return [(name, document) for name, document in read if document is not None]
