"""`headrace feed`: messages of another system's NATS server that become events, for administrators."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.errors import CommandError
from headrace.cli.records import AllOrLimitOption, Columns, say_made, say_records, shown
from headrace.cli.service import JsonOption, OfHomeOption, YesOption, confirmed, service
from headrace.cli.values import document_of, given, read_text

app = typer.Typer(help="Let messages of another NATS server become events. For administrators.", no_args_is_help=True)


class Start(StrEnum):
    """With which message a feed of a stream begins."""

    NEW = "new"
    ALL = "all"


class Data(StrEnum):
    """How bodies are read."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"
    BASE64 = "base64"


_Credentials = Annotated[
    Path | None, typer.Option(help="A .creds file, or a file with the seed of an nkey, for the other server.")
]
_User = Annotated[str | None, typer.Option(help="A user of the other server, with --password-file.")]
_PasswordFile = Annotated[Path | None, typer.Option(help="A file with that user's password.")]
_TokenFile = Annotated[Path | None, typer.Option(help="A file with a token of the other server.")]
_Url = Annotated[
    list[str] | None, typer.Option(help="Where the other server is, such as nats://plc.example.org:4222; repeatable.")
]
_FeedId = Annotated[UUID, typer.Argument()]


@app.command()
def create(
    name: Annotated[str | None, typer.Argument(help="What people call it.")] = None,
    url: _Url = None,
    subject: Annotated[list[str] | None, typer.Option(help="Which messages, such as plc.>; repeatable.")] = None,
    bus: Annotated[str | None, typer.Option(help="Where the events are published; by default `default`.")] = None,
    stream: Annotated[
        str | None,
        typer.Option(help="The JetStream stream that holds them; without it they come at most once."),
    ] = None,
    start: Annotated[Start | None, typer.Option(help="With which message of the stream it begins.")] = None,
    cloudevents: Annotated[
        bool, typer.Option("--cloudevents", help="The messages are CloudEvents, in the modes of the NATS binding.")
    ] = False,
    type_: Annotated[
        str | None, typer.Option("--type", help='Of the events, such as "org.example.{{ message.tokens[1] }}".')
    ] = None,
    source: Annotated[str | None, typer.Option(help="Of the events; by default /feeds/ID.")] = None,
    event_subject: Annotated[str | None, typer.Option(help="Of the events; by default the message's subject.")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Of the events; by default stream and sequence.")] = None,
    data: Annotated[Data | None, typer.Option(help="How bodies are read; auto is JSON, else base64.")] = None,
    credentials: _Credentials = None,
    user: _User = None,
    password_file: _PasswordFile = None,
    token_file: _TokenFile = None,
    file: Annotated[
        Path | None, typer.Option(help="A whole feed as JSON or YAML; options replace what it says.")
    ] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Let messages of another NATS server become events of a bus, in your name."""
    document = document_of(file, "a feed", "urls, subjects, bus")
    document |= given(name=name, urls=url, subjects=subject, bus=bus, stream=stream, start=start and start.value)
    shape = given(type=type_, source=source, subject=event_subject, id=id_, data=data and data.value)
    if cloudevents:
        shape["form"] = "cloudevents"
    if shape:
        document["shape"] = {**document.get("shape", {}), **shape}
    if credential := _credential(credentials, user, password_file, token_file):
        document["credential"] = credential
    for needed in ("urls", "subjects"):
        if needed not in document:
            raise CommandError(f"say from where: --{needed[:-1]}")
    with service(home) as client:
        created = client.create_feed(document)
    say_made(created, "feed_id", as_json=as_json)


@app.command("list")
def list_feeds(limit: AllOrLimitOption = None, as_json: JsonOption = False, home: OfHomeOption = None) -> None:
    """List all feeds, and what they do."""
    with service(home) as client:
        feeds = client.list_feeds()
    columns: Columns = {
        "ID": "feed_id",
        "NAME": "name",
        "SUBJECTS": "subjects",
        "BUS": "bus",
        "STATE": _state,
        "STORED": _stored,
    }
    say_records(feeds, columns, as_json=as_json, limit=limit)


@app.command()
def show(feed_id: _FeedId, as_json: JsonOption = False, home: OfHomeOption = None) -> None:
    """Show a feed: what it takes, whether it reads, how many messages there were, and what went wrong last."""
    with service(home) as client:
        feed = client.get_feed(feed_id)
    if as_json:
        output.say_json(feed)
        return
    status = feed.pop("status") or {}
    for name, value in {**feed, "state": _state({**feed, "status": status}), **status}.items():
        output.say(f"{name + ':':<12} {shown(value)}")


@app.command()
def pause(feed_id: _FeedId, home: OfHomeOption = None) -> None:
    """Let a feed rest. A stream's messages wait for it, for 30 days; others are lost."""
    with service(home) as client:
        client.change_feed(feed_id, paused=True)
    output.say(f"The feed {feed_id} rests.")


@app.command()
def resume(feed_id: _FeedId, home: OfHomeOption = None) -> None:
    """Let a feed go on."""
    with service(home) as client:
        client.change_feed(feed_id, paused=False)
    output.say(f"The feed {feed_id} goes on.")


@app.command("set-credential")
def set_credential(
    feed_id: _FeedId,
    credentials: _Credentials = None,
    user: _User = None,
    password_file: _PasswordFile = None,
    token_file: _TokenFile = None,
    home: OfHomeOption = None,
) -> None:
    """Give a feed another credential; without any it signs in with none."""
    with service(home) as client:
        client.change_feed(feed_id, credential=_credential(credentials, user, password_file, token_file))
    output.say(f"The feed {feed_id} has another credential.")


@app.command()
def delete(feed_id: _FeedId, yes: YesOption = False, home: OfHomeOption = None) -> None:
    """Delete a feed; events that came through it stay."""
    confirmed(f"Delete the feed {feed_id}?", yes=yes)
    with service(home) as client:
        client.delete_feed(feed_id)
    output.say(f"Deleted {feed_id}.")


def _credential(
    credentials: Path | None, user: str | None, password_file: Path | None, token_file: Path | None
) -> dict[str, str]:
    text = _secret(credentials)
    kind = "creds" if text and "BEGIN NATS USER JWT" in text else "nkey"
    return given(**{kind: text}, user=user, password=_secret(password_file), token=_secret(token_file))


def _secret(file: Path | None) -> str | None:
    return None if file is None else read_text(file).strip()


def _state(feed: dict[str, Any]) -> str:
    if feed["paused"]:
        return "paused"
    return str((feed.get("status") or {}).get("state", "not read"))


def _stored(feed: dict[str, Any]) -> str:
    return str((feed.get("status") or {}).get("stored", "-"))
