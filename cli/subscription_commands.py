"""`headrace subscription`: events that run functions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.records import EVENT_COLUMNS, AllOrLimitOption, Columns, say_made, say_records
from headrace.cli.service import JsonOption, OfHomeOption, YesOption, confirmed, service
from headrace.cli.sink_options import (
    AuthorityOption,
    HandshakeOption,
    HeaderFileOption,
    ModeOption,
    RateOption,
    SecretFileOption,
    TimeoutOption,
    TokenFileOption,
    ToOption,
    with_target,
)
from headrace.cli.subscription_changes import change
from headrace.cli.subscription_flow import (
    BatchSize,
    BatchWindow,
    Concurrency,
    FlowOption,
    OrderBy,
    PerSecond,
    pause,
    resume,
    show,
    with_flow,
)
from headrace.cli.subscription_options import (
    AllowedEndpoints,
    EndpointFrom,
    Expires,
    Hold,
    JoinOption,
    MaxAge,
    MaxAttempts,
    NextEndpoints,
    OnFailure,
    OnSuccess,
    PermanentErrors,
    Start,
    with_policies,
)
from headrace.cli.values import document_of, duration_s, given, json_given, json_option

app = typer.Typer(help="Create, list, change, pause, try and delete subscriptions.", no_args_is_help=True)

FilterOption = Annotated[str | None, typer.Option("--filter", help="A filter as JSON; @FILE for a file with it.")]


@app.command()
def create(
    name: Annotated[str | None, typer.Argument(help="What people call it.")] = None,
    function: Annotated[UUID | None, typer.Option(help="The id of the function to run.")] = None,
    endpoint: Annotated[UUID | None, typer.Option(help="The id of the endpoint that runs it.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Events of exactly this type.")] = None,
    source: Annotated[str | None, typer.Option(help="Events of exactly this source.")] = None,
    filter_: Annotated[
        str | None,
        typer.Option("--filter", help='Any filter as JSON, such as {"prefix": {"type": "org."}}; @FILE for a file.'),
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input",
            help='Arguments as JSON with templates over `event`, such as {"args": ["{{ event.data.max }}"]}; @FILE'
            " for a file. By default the whole event is the one argument.",
        ),
    ] = None,
    endpoint_from: EndpointFrom = None,
    allowed_endpoint: AllowedEndpoints = None,
    bus: Annotated[str | None, typer.Option(help="Whose events; by default those of `default`.")] = None,
    max_attempts: MaxAttempts = None,
    max_age: MaxAge = None,
    permanent_error: PermanentErrors = None,
    hold: Hold = None,
    next_endpoint: NextEndpoints = None,
    start: Start = None,
    expires: Expires = None,
    flow: FlowOption = None,
    concurrency: Concurrency = None,
    per_second: PerSecond = None,
    order_by: OrderBy = None,
    batch: BatchSize = None,
    batch_window: BatchWindow = None,
    on_success: OnSuccess = None,
    on_failure: OnFailure = None,
    join: JoinOption = None,
    to: ToOption = None,
    mode: ModeOption = None,
    timeout_s: TimeoutOption = None,
    rate_per_minute: RateOption = None,
    secret_file: SecretFileOption = None,
    token_file: TokenFileOption = None,
    header_file: HeaderFileOption = None,
    to_ca_file: AuthorityOption = None,
    handshake: HandshakeOption = False,
    file: Annotated[
        Path | None, typer.Option(help="A whole subscription as JSON or YAML; options replace what it says.")
    ] = None,
    sample: Annotated[
        str | None, typer.Option(help="An event as JSON to try it on; @FILE for a file. It must work with it.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and try it, and make nothing: also with an event made for it.")
    ] = False,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Let every event that matches a filter run a function, or go to an address by HTTP."""
    document = document_of(file, "a subscription", "filter, function_id, endpoint_id")
    document |= given(
        name=name,
        bus=bus,
        function_id=function and str(function),
        endpoint_id=endpoint and str(endpoint),
    )
    document |= json_given(input=input_)
    wanted = _filter(type_, source, json_option(filter_, "--filter"))
    if wanted is not None:
        document["filter"] = wanted
    document = with_policies(
        document,
        max_attempts=max_attempts,
        max_age=max_age,
        permanent_errors=permanent_error,
        hold=hold,
        next_endpoints=next_endpoint,
        endpoint_from=endpoint_from,
        allowed_endpoints=allowed_endpoint,
        start=start,
        expires=expires,
        on_success=on_success,
        on_failure=on_failure,
        join=join,
    )
    document = with_flow(
        document,
        flow=flow,
        concurrency=None if to else concurrency,
        per_second=per_second,
        order_by=order_by,
        batch=batch,
        window=batch_window,
    )
    document = with_target(
        document,
        to,
        mode=mode and mode.value,
        timeout_s=timeout_s,
        concurrency=concurrency if to else None,
        rate_per_minute=rate_per_minute,
        secret_file=secret_file,
        token_file=token_file,
        header_files=header_file,
        ca_file=to_ca_file,
        handshake=handshake,
    )
    document |= json_given(sample=sample)
    with service(home) as client:
        if dry_run:
            _say_trial(client.validate_subscription(document), as_json=as_json)
            return
        created = client.create_subscription(document)
    say_made(created, "subscription_id", as_json=as_json)


@app.command("list")
def list_subscriptions(limit: AllOrLimitOption = None, as_json: JsonOption = False, home: OfHomeOption = None) -> None:
    """List your subscriptions."""
    with service(home) as client:
        subscriptions = client.list_subscriptions()
    columns: Columns = {
        "ID": "subscription_id",
        "NAME": "name",
        "FILTER": "filter",
        "FUNCTION": "function_id",
        "ENDPOINT": lambda each: each["target"]["url"] if each.get("target") else each.get("endpoint_id"),
    }
    say_records(subscriptions, columns, as_json=as_json, limit=limit)


for command in (show, change, pause, resume):
    app.command()(command)


@app.command()
def delete(
    subscription_id: Annotated[UUID, typer.Argument()], yes: YesOption = False, home: OfHomeOption = None
) -> None:
    """Delete a subscription of yours."""
    confirmed(f"Delete the subscription {subscription_id}?", yes=yes)
    with service(home) as client:
        client.delete_subscription(subscription_id)
    output.say(f"Deleted {subscription_id}.")


@app.command()
def explain(
    subscription_id: Annotated[UUID | None, typer.Argument(help="The subscription; or give --filter.")] = None,
    filter_: FilterOption = None,
    event: Annotated[str | None, typer.Option(help="The event as JSON; @FILE for a file with it.")] = None,
    sequence: Annotated[
        int | None, typer.Option(min=1, help="The place of a stored event, in place of --event.")
    ] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Say why an event passes a filter or not, clause by clause; ends with status 1 when it does not pass."""
    wanted = _wanted(subscription_id, filter_)
    if (event is None) == (sequence is None):
        raise typer.BadParameter("give --event or --sequence, one of them")
    tried = sequence if sequence is not None else json_option(event, "--event")
    with service(home) as client:
        answer = client.explain_filter(wanted, tried)
    if as_json:
        output.say_json(answer)
    else:
        output.say("\n".join(_clauses(answer["explanation"])))
        if answer.get("arguments") is not None:
            output.say(f"The function would be called with {json.dumps(answer['arguments'], ensure_ascii=False)}.")
        elif answer.get("input_error"):
            output.say(f"But the input fails: {answer['input_error']}")
    if not answer["passed"]:
        raise typer.Exit(1)


@app.command()
def backtest(
    subscription_id: Annotated[UUID | None, typer.Argument(help="The subscription; or give --filter.")] = None,
    filter_: FilterOption = None,
    last: Annotated[str, typer.Option(help="How far back, such as 30m, 24h or 7d.")] = "24h",
    samples: Annotated[int, typer.Option(min=0, max=100, help="How many of the events to show.")] = 10,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Say what a filter would have matched of late. Nothing runs."""
    since = datetime.now(UTC) - timedelta(seconds=duration_s(last, "--last"))
    with service(home) as client:
        found = client.backtest_filter(_wanted(subscription_id, filter_), since=since, samples=samples)
    if as_json:
        output.say_json(found)
        return
    output.say(f"{found['matched']} of {found['scanned']} events of the last {last} match.")
    if found["samples"]:
        say_records(found["samples"], EVENT_COLUMNS, as_json=False)


def _say_trial(trial: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.say_json(trial)
        return
    made = "This event was made for it" if trial["sample_made"] else "With the sample"
    if trial["sample"] is not None and trial["subscription"]["target"] is not None:
        output.say(f"{made}, and would be sent: {json.dumps(trial['sample'], ensure_ascii=False)}")
    if trial["arguments"] is not None:
        output.say(f"{made}: {json.dumps(trial['sample'], ensure_ascii=False)}")
        output.say(f"The function would be called with {json.dumps(trial['arguments'], ensure_ascii=False)}")
        output.say(f"at endpoint {trial['endpoint_id']}.")
    for doubt in trial["doubts"]:
        output.say(f"Perhaps wrong: {doubt}")
    output.say("It can be made; nothing was stored.")


def _wanted(subscription_id: UUID | None, filter_: str | None) -> Any:
    if (subscription_id is None) == (filter_ is None):
        raise typer.BadParameter("give a subscription or --filter, one of them")
    return subscription_id if subscription_id is not None else json_option(filter_, "--filter")


def _clauses(clause: dict[str, Any], depth: int = 0) -> list[str]:
    found = f"  (the event has {clause['found']})" if clause.get("found") else ""
    own = f"{'yes' if clause['passed'] else 'no ':3} {'  ' * depth}{clause['clause']}{found}"
    return [own, *(line for part in clause.get("parts", ()) for line in _clauses(part, depth + 1))]


def _filter(type_: str | None, source: str | None, other: Any) -> Any:
    exact = given(type=type_, source=source)
    if exact and other is not None:
        return {"all": [{"exact": exact}, other]}
    return {"exact": exact} if exact else other
