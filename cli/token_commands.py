"""`headrace token`: the tokens with which people and programs show who they are."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli import output
from headrace.cli.records import AllOrLimitOption, say_records
from headrace.cli.service import JsonOption, OfHomeOption, service
from headrace.cli.values import duration_s

app = typer.Typer(help="Create, list and revoke tokens.", no_args_is_help=True)


@app.command()
def create(
    user: Annotated[str | None, typer.Option(help="For whom (administrators only); by default for yourself.")] = None,
    label: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    expires: Annotated[
        str | None, typer.Option(help="For how long it is valid, such as 12h or 30d; by default until it is revoked.")
    ] = None,
    publishes: Annotated[
        str | None,
        typer.Option(
            help="It may do nothing but publish events whose source begins with this, such as /hosts/pc7/; '' for any."
        ),
    ] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Make a token. It is shown this once: the service keeps only its hash."""
    with service(home) as client:
        expires_in_s = None if expires is None else duration_s(expires, "--expires")
        token = client.create_token(user, label=label, expires_in_s=expires_in_s, publishes=publishes)
    if as_json:
        output.say_json(token)
        return
    output.note(f"Token {token['token_id']} of {token['principal']}, shown only now:")
    output.say(token["token"])


@app.command("list")
def list_tokens(
    user: Annotated[str | None, typer.Option(help="Whose (administrators only); by default your own.")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Everybody's (administrators only).")] = False,
    limit: AllOrLimitOption = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """List tokens, without what makes them valid."""
    with service(home) as client:
        tokens = client.list_tokens("*" if everybody else user)
    columns = {
        "ID": "token_id",
        "KIND": "kind",
        "PRINCIPAL": "principal",
        "LABEL": "label",
        "CREATED": "created_at",
        "EXPIRES": "expires_at",
    }
    say_records(tokens, columns, as_json=as_json, limit=limit)


@app.command()
def revoke(
    token_id: Annotated[str, typer.Argument(help="As `headrace token list` shows it.")], home: OfHomeOption = None
) -> None:
    """Revoke a token: it, and what was opened with it, ends within seconds."""
    with service(home) as client:
        client.revoke_token(token_id)
    output.say(f"Revoked {token_id}.")
