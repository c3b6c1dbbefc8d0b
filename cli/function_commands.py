"""`headrace function`: the functions that the service knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.records import AllOrLimitOption, say_made, say_records, shown
from headrace.cli.service import JsonOption, OfHomeOption, YesOption, confirmed, service
from headrace.cli.values import read_document, read_text

app = typer.Typer(help="Register, list, show and delete functions.", no_args_is_help=True)


@app.command()
def register(
    file: Annotated[Path, typer.Argument(help="A Python file; '-' is standard input.")],
    name: Annotated[
        str | None, typer.Option(help="The function in it that is called; needed when it defines several.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="What it does.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Everybody with an account may run it.")] = False,
    requirements: Annotated[
        Path | None, typer.Option(help="A requirements.txt of the packages that it needs; by default the file's head.")
    ] = None,
    python: Annotated[str | None, typer.Option(help="The Python that it needs, such as 3.12.")] = None,
    modules: Annotated[
        list[Path] | None, typer.Option("--module", help="A module, or a folder of modules, that it imports.")
    ] = None,
    input_schema: Annotated[
        Path | None,
        typer.Option(help="A JSON or YAML file: the schema of its action provider's body; by default the signature's."),
    ] = None,
    default_endpoint: Annotated[
        UUID | None, typer.Option(help="Where its action provider runs it when nobody says where.")
    ] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Register a function of a Python file, by its source. The file is compiled, not run, here."""
    source = read_text(file)
    with service(home) as client:
        function_id = client.register_source_code(
            source,
            name,
            description=description,
            public=public,
            requirements=requirements,
            python=python,
            modules=modules or (),
            input_schema=None if input_schema is None else read_document(input_schema),
            default_endpoint=default_endpoint,
        )
    say_made({"function_id": function_id}, "function_id", as_json=as_json)


@app.command("list")
def list_functions(limit: AllOrLimitOption = None, as_json: JsonOption = False, home: OfHomeOption = None) -> None:
    """List your functions and the public ones."""
    with service(home) as client:
        functions = client.list_functions()
    columns = {
        "ID": "function_id",
        "NAME": "name",
        "OWNER": "owner",
        "PUBLIC": "public",
        "PYTHON": "python_version",
        "REGISTERED": "created_at",
    }
    say_records(functions, columns, as_json=as_json, limit=limit)


@app.command()
def show(
    function_id: Annotated[UUID, typer.Argument()], as_json: JsonOption = False, home: OfHomeOption = None
) -> None:
    """Show a function, its action provider, and its source."""
    with service(home) as client:
        function = client.get_function(function_id)
        url = client.url
    if as_json:
        output.say_json(function)
        return
    for key in ("function_id", "name", "owner", "public", "python_version", "created_at", "description", "metadata"):
        output.say(f"{key + ':':17}{shown(function[key])}")
    for key in ("requirements", "requires_python"):
        if function.get(key):
            output.say(f"{key + ':':17}{shown(function[key])}")
    output.say(f"{'provider:':17}{url}{function['provider']}")
    if function.get("default_endpoint"):
        output.say(f"{'default endpoint:':17} {function['default_endpoint']}")
    if function.get("input_schema"):
        output.say()
        output.say("What its action provider takes:")
        output.say(json.dumps(function["input_schema"], indent=2, ensure_ascii=False))
    output.say()
    output.say(function["source"] or "(stored by cloudpickle only, without source)")


@app.command()
def delete(function_id: Annotated[UUID, typer.Argument()], yes: YesOption = False, home: OfHomeOption = None) -> None:
    """Delete a function of yours. Tasks that wait for it fail."""
    confirmed(f"Delete the function {function_id}? Tasks that wait for it fail.", yes=yes)
    with service(home) as client:
        client.delete_function(function_id)
    output.say(f"Deleted {function_id}.")
