"""The accounts of an installation, as NATS wants to be told: what they may, and what passes between CORE and EDGE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_SERVICES: Final = {
    "task.>": "Singleton",
    "result.>": "Singleton",
    "progress.>": "Singleton",
    "log.>": "Singleton",
    "publish.*.*": "Singleton",
    "$JS.ACK.>": "Singleton",
    "$JS.API.CONSUMER.MSG.NEXT.*.*": "Stream",
    "$JS.API.DIRECT.GET.RESULTS.>": "Stream",
    "$JS.API.DIRECT.GET.CONTROL.>": "Stream",
}
_STREAMS: Final = ("stored.>", "control.>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """What a NATS server is told: the operator's JWT, and the JWT of each account by its public key."""

    operator_jwt: str
    system_account: str
    jwts: dict[str, str]


def limits(*, jetstream: bool) -> dict[str, Any]:
    """The limits of an account: none, but that without `jetstream` it stores nothing."""
    unlimited = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
    figures: dict[str, Any] = {**dict.fromkeys(unlimited, -1), "wildcards": True}
    if jetstream:
        figures |= dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    return figures


def claims_update(account: str) -> str:
    """On which subject NATS servers are told what an account is now."""
    return f"$SYS.REQ.ACCOUNT.{account}.CLAIMS.UPDATE"


def edge_claims(core_account: str, signing_key: str, revoked: Mapping[str, int]) -> dict[str, Any]:
    """What EDGE is; `revoked` as in `headrace.bus.installation.service_keys.Revocation.statement`."""
    return {
        "type": "account",
        "version": 2,
        "limits": limits(jetstream=False),
        "imports": _imports(core_account),
        "signing_keys": [signing_key],
        "revocations": dict(revoked),
    }


def exports() -> list[dict[str, str]]:
    """What CORE gives to EDGE."""
    services = [
        {"name": subject, "subject": subject, "type": "service", "response_type": answers}
        for subject, answers in _SERVICES.items()
    ]
    return services + [{"name": subject, "subject": subject, "type": "stream"} for subject in _STREAMS]


def _imports(core: str) -> list[dict[str, str]]:
    kinds = {**dict.fromkeys(_SERVICES, "service"), **dict.fromkeys(_STREAMS, "stream")}
    return [{"name": subject, "subject": subject, "account": core, "type": kind} for subject, kind in kinds.items()]
