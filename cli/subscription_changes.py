"""`headrace subscription change`: another filter, target or policy for a subscription that keeps its id."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from headrace.cli import output
from headrace.cli.service import JsonOption, OfHomeOption, service
from headrace.cli.sink_options import (
    RateOption,
    SecretFileOption,
    TokenFileOption,
    ToOption,
    kept_target,
    with_target,
)
from headrace.cli.subscription_flow import (
    BatchSize,
    BatchWindow,
    Concurrency,
    FlowOption,
    OrderBy,
    PerSecond,
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
    with_policies,
)
from headrace.cli.values import document_of, given, json_given


def change(
    subscription_id: Annotated[UUID, typer.Argument()],
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    function: Annotated[UUID | None, typer.Option(help="The id of the function to run.")] = None,
    endpoint: Annotated[UUID | None, typer.Option(help="The id of the endpoint that runs it.")] = None,
    endpoint_from: EndpointFrom = None,
    allowed_endpoint: AllowedEndpoints = None,
    filter_: Annotated[str | None, typer.Option("--filter", help="A filter as JSON; @FILE for a file.")] = None,
    input_: Annotated[str | None, typer.Option("--input", help="Arguments as JSON; @FILE for a file.")] = None,
    max_attempts: MaxAttempts = None,
    max_age: MaxAge = None,
    permanent_error: PermanentErrors = None,
    hold: Hold = None,
    next_endpoint: NextEndpoints = None,
    expires: Expires = None,
    flow: FlowOption = None,
    concurrency: Concurrency = None,
    per_second: PerSecond = None,
    order_by: OrderBy = None,
    batch: BatchSize = None,
    batch_window: BatchWindow = None,
    on_success: OnSuccess = None,
    on_failure: OnFailure = None,
    to: ToOption = None,
    rate_per_minute: RateOption = None,
    secret_file: SecretFileOption = None,
    token_file: TokenFileOption = None,
    join: JoinOption = None,
    file: Annotated[
        Path | None, typer.Option(help="What changes, as JSON or YAML; options replace what it says.")
    ] = None,
    as_json: JsonOption = False,
    home: OfHomeOption = None,
) -> None:
    """Change a subscription of yours: what you do not name stays as it is."""
    document = document_of(file, "what changes of a subscription", "filter, input, retry")
    document |= given(name=name, function_id=function and str(function), endpoint_id=endpoint and str(endpoint))
    document |= json_given(filter=filter_, input=input_)
    with service(home) as client:
        # A policy is replaced whole: so what is not named of it comes from what there is.
        known = client.get_subscription(subscription_id)
        policies = {each: document.get(each) or known[each] for each in ("retry", "offline", "announce")}
        policies["flow"] = document["flow"] if "flow" in document else known["flow"]
        changed = with_policies(
            {**document, **policies},
            max_attempts=max_attempts,
            max_age=max_age,
            permanent_errors=permanent_error,
            hold=hold,
            next_endpoints=next_endpoint,
            endpoint_from=endpoint_from,
            allowed_endpoints=allowed_endpoint,
            expires=expires,
            on_success=on_success,
            on_failure=on_failure,
            join=join,
        )
        changed = with_flow(
            changed,
            flow=flow,
            concurrency=concurrency,
            per_second=per_second,
            order_by=order_by,
            batch=batch,
            window=batch_window,
        )
        if any(each is not None for each in (to, rate_per_minute, secret_file, token_file)):
            changed = with_target(
                {**changed, "target": {**kept_target(known["target"]), **(document.get("target") or {})}},
                to,
                rate_per_minute=rate_per_minute,
                secret_file=secret_file,
                token_file=token_file,
            )
        answer = client.change_subscription(
            subscription_id, {each: value for each, value in changed.items() if value != known.get(each)} or document
        )
    if as_json:
        output.say_json(answer)
    else:
        output.say(f"Changed {subscription_id}.")
