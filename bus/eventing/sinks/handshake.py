"""The handshake of CloudEvents' webhook specification: a sink is asked whether it wants events from here.

Source: HTTP 1.1 Web Hooks for Event Delivery 1.0.2, section 4. The answer must come at once: a consent that is given
later, by a call of its own (`WebHook-Request-Callback`), is not asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from headrace.bus.errors import SinkProblem
from headrace.bus.eventing.sinks.client import SinkClient

_ANYBODY: Final = "*"


async def ask(
    client: SinkClient, *, origin: str, rate_per_minute: int | None, headers: Mapping[str, str]
) -> int | None:
    """Ask for consent; the rate per minute that is allowed, None where there is no limit.

    Raises `SinkProblem`, of the kind `SinkUnwilling` where the answer is no.
    """
    asked = {**headers, "webhook-request-origin": origin}
    if rate_per_minute is not None:
        asked["webhook-request-rate"] = str(rate_per_minute)
    answer = await client.send("OPTIONS", asked)
    if not 200 <= answer.status < 300:
        raise _unwilling(f"it answered OPTIONS with HTTP {answer.status}")
    allowed = answer.headers.get("webhook-allowed-origin", "").strip()
    if allowed != _ANYBODY and allowed.lower() != origin.lower():
        raise _unwilling(f"its answer does not allow {origin!r} in WebHook-Allowed-Origin")
    return _rate(answer.headers.get("webhook-allowed-rate", "").strip(), rate_per_minute)


def _rate(said: str, wanted: int | None) -> int | None:
    if said in ("", _ANYBODY):
        return wanted
    if not (said.isascii() and said.isdigit() and int(said[:9]) > 0):
        raise _unwilling("its WebHook-Allowed-Rate is no number of requests per minute")
    return int(said[:9]) if wanted is None else min(wanted, int(said[:9]))


def _unwilling(why: str) -> SinkProblem:
    return SinkProblem(f"the sink does not consent: {why}", kind="SinkUnwilling")
