"""`headrace keys`: the keys of an installation, on the machine that has them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli import output
from headrace.cli.errors import HomeUnusable
from headrace.cli.home import Home
from headrace.cli.options import DEFAULT_HOME, HomeOption, expanded
from headrace.cli.service import YesOption, confirmed
from headrace.cli.values import duration_s

if TYPE_CHECKING:
    from headrace.bus.installation.operator import Operator

app = typer.Typer(help="Replace the keys of an installation.", no_args_is_help=True)


@app.command()
def rotate(home: HomeOption = DEFAULT_HOME, yes: YesOption = False) -> None:
    """Replace the master secret and all keys that sign. `headrace up` must not run.

    What was signed before is still believed: queued tasks run, stored results are read. Sessions and endpoints get new
    credentials by themselves when Headrace is up again. Tokens are not keys, and stay.
    """
    from headrace.bus.installation.operator import Operator

    place = _home(home)
    confirmed(f"Replace the keys of {place.path}? Make a backup before.", yes=yes)
    with place.locked():
        operator = Operator.rotate(place.keys, now=time.time())
    output.say(f"Replaced the keys of {place.path}.")
    _tell_older(operator)
    output.note("Services on other machines need the new keys/service.json and keys/master.key.")


@app.command()
def forget(
    home: HomeOption = DEFAULT_HOME,
    older_than: Annotated[
        str, typer.Option(help="Which ones: those that were replaced so long ago, such as 30d.")
    ] = "30d",
    yes: YesOption = False,
) -> None:
    """Believe no more what was signed under keys that were replaced long ago. `headrace up` must not run.

    Tasks that are queued since then never run, and results that are stored since then cannot be read any more: wait for
    as long as results are kept (two weeks).
    """
    from headrace.bus.installation.operator import Operator

    place = _home(home)
    before = time.time() - duration_s(older_than, "--older-than")
    confirmed(f"Forget the keys of {place.path} that were replaced before {_when(before)}?", yes=yes)
    with place.locked():
        had = len(Operator.load(place.keys).older)
        operator = Operator.forget(place.keys, replaced_before=before)
    output.say(f"Forgot {had - len(operator.older)} of {had} older keys.")
    _tell_older(operator)


@app.command("list")
def list_keys(home: HomeOption = DEFAULT_HOME) -> None:
    """List the master secrets that are believed besides the one in use, by when they were replaced."""
    from headrace.bus.installation.operator import Operator

    operator = Operator.load(_home(home).keys)
    if not operator.older:
        output.note("(none)")
    _tell_older(operator)


def _home(path: Path) -> Home:
    home = Home(expanded(path))
    if not (home.keys / "operator.json").exists():
        raise HomeUnusable(f"{home.path} is not the home of an installation: it has no keys/operator.json")
    return home


def _tell_older(operator: Operator) -> None:
    for each in operator.older:
        output.say(f"Still believed: what was signed before {_when(each.replaced_at)}.")


def _when(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")
