"""Credentials of NATS users: what each kind of client may publish and subscribe to, signed and with an expiry.

JetStream lives in the CORE account, where only the service connects. SDKs and pools are users of the EDGE account and
get an explicit list of subjects; whatever is not listed is denied. Nobody at the edge may create a consumer, purge, or
use a form of the JetStream API that takes a subject in the body.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any, Final, cast
from uuid import UUID

import nkeys

from headrace.bus.errors import KeysUnusable
from headrace.bus.names import lane_tasks, peers_of, pool_controls, publishing_subject, token

OPERATOR_KEY: Final[int] = nkeys.PREFIX_BYTE_OPERATOR
ACCOUNT_KEY: Final[int] = nkeys.PREFIX_BYTE_ACCOUNT
USER_KEY: Final[int] = nkeys.PREFIX_BYTE_USER

_UNLIMITED = {"subs": -1, "data": -1, "payload": -1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a NATS user connects with: a signed statement of what it may do, and the seed of the key it names.

    Servers that are not ours may know users by a key alone (no `jwt`), by name and password, by a token, or not at all.
    """

    jwt: str
    seed: str = field(repr=False)
    inbox_prefix: str = "_INBOX"
    """Below this subject, and nowhere else, the user may receive answers."""
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def proof(self, nonce: str) -> dict[str, str]:
        """What is said of it when a server asks with this nonce. Raises `KeysUnusable`."""
        said = {"jwt": self.jwt, "user": self.user, "pass": self.password, "auth_token": self.token}
        if self.seed:
            pair = KeyPair(self.seed)
            said["sig"] = base64.b64encode(pair.sign(nonce.encode())).decode()
            if not self.jwt:
                said["nkey"] = pair.public
        return {name: value for name, value in said.items() if value}


class KeyPair:
    """An ed25519 key in the form that NATS wants. Its printed form shows the public half only."""

    def __init__(self, seed: str) -> None:
        try:
            self._pair = nkeys.from_seed(bytearray(seed.encode()))
            self.public = cast(bytes, self._pair.public_key).decode()
        except (nkeys.NkeysError, ValueError, AssertionError) as error:
            raise KeysUnusable(f"not the seed of a NATS key: {error}") from error
        self.seed = seed

    def __repr__(self) -> str:
        return f"KeyPair({self.public})"

    @classmethod
    def create(cls, kind: int) -> KeyPair:
        """A fresh key; `kind` is one of the `…_KEY` constants."""
        return cls(cast(bytes, nkeys.encode_seed(os.urandom(32), kind)).decode())

    def sign(self, data: bytes) -> bytes:
        """The ed25519 signature of these bytes."""
        return cast(bytes, self._pair.sign(data))


def sign_claims(  # the statement's fields, in the order of its specification
    signer: KeyPair, *, subject: str, name: str, claims: dict[str, Any], expires_unix_s: int | None = None
) -> str:
    """A NATS JWT (version 2): `signer` states `claims` about the key `subject`."""
    body: dict[str, Any] = {"iat": int(time.time()), "iss": signer.public, "name": name, "sub": subject, "nats": claims}
    if expires_unix_s is not None:
        body["exp"] = expires_unix_s
    digest = hashlib.blake2b(json.dumps(body).encode(), digest_size=32).digest()
    body["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    signed = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(body)}"
    return f"{signed}.{_base64url(signer.sign(signed.encode()))}"


def issued_at(jwt: str) -> int:
    """When a NATS JWT was signed, in unix seconds by its signer's clock. Raises `KeysUnusable` for another text."""
    try:
        body = jwt.split(".")[1]
        return int(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["iat"])
    except (IndexError, KeyError, ValueError, TypeError) as error:
        raise KeysUnusable(f"not a NATS JWT: {error!r}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSigner:
    """Signs users of one account: the account's public key and one of the keys that may sign for it."""

    account: str
    key: KeyPair

    def user(
        self,
        name: str,
        *,
        publish: list[str] | None,
        subscribe: list[str] | None,
        ttl_s: float | None,
        inbox_prefix: str = "_INBOX",
    ) -> Credentials:
        """Credentials of a fresh user. A list that is None allows everything in the account, an empty one nothing."""
        pair = KeyPair.create(USER_KEY)
        claims: dict[str, Any] = {"type": "user", "version": 2, "issuer_account": self.account, **_UNLIMITED}
        for side, subjects in (("pub", publish), ("sub", subscribe)):
            if subjects is not None:
                # An empty list of permissions would mean "everything" to the server.
                claims[side] = {"allow": subjects} if subjects else {"deny": [">"]}
        expires = None if ttl_s is None else int(time.time() + ttl_s)
        jwt = sign_claims(self.key, subject=pair.public, name=name, claims=claims, expires_unix_s=expires)
        return Credentials(jwt=jwt, seed=pair.seed, inbox_prefix=inbox_prefix)


class Minter:
    """Makes the credentials of SDK sessions, pools and publishers (and, where the CORE key is at hand, of services)."""

    def __init__(self, *, edge: AccountSigner, core: AccountSigner | None = None) -> None:
        self._edge = edge
        self._core = core

    def core_user(self, name: str, ttl_s: float | None = None) -> Credentials:
        """A service: everything in the CORE account. No `ttl_s`, no expiry.

        Raises `KeysUnusable` where the CORE account's key is not at hand.
        """
        if self._core is None:
            raise KeysUnusable(
                "the key of the CORE account is not here; only the machine that runs NATS's operator can make such a"
                " credential: use the one in service.json"
            )
        return self._core.user(name, publish=None, subscribe=None, ttl_s=ttl_s)

    def sdk_user(
        self, principal: str, endpoint: UUID, pool: str, session_id: str, ttl_s: float, *, may_submit: bool = True
    ) -> Credentials:
        """A session of one principal with one pool: submit there (if it may), read and follow its results there."""
        inbox = _inbox(session_id)
        results = f"result.{endpoint.hex}.{token(principal)}.>"
        submit = [lane_tasks(endpoint, pool, principal)] if may_submit else []
        return self._edge.user(
            f"sdk {principal}",
            publish=[*submit, f"$JS.API.DIRECT.GET.RESULTS.{results}"],
            subscribe=[f"{inbox}.>", f"stored.{results}", f"stored.progress.{endpoint.hex}.{token(principal)}.>"],
            ttl_s=ttl_s,
            inbox_prefix=inbox,
        )

    def publisher_user(self, bus: str, session_id: str, ttl_s: float) -> Credentials:
        """A program that publishes events to one bus, and hears what became of them; nothing else."""
        inbox = _inbox(session_id)
        return self._edge.user(
            f"publisher {bus}",
            publish=[publishing_subject(bus, session_id)],
            subscribe=[f"{inbox}.>"],
            ttl_s=ttl_s,
            inbox_prefix=inbox,
        )

    def pool_user(self, endpoint: UUID, pool: str, session_id: str, ttl_s: float) -> Credentials:
        """A pool of an endpoint: take its own bundles, store results, progress and logs of its endpoint."""
        inbox = _inbox(session_id)
        control, peers = pool_controls(endpoint, pool), peers_of(endpoint, pool)
        return self._edge.user(
            f"pool {endpoint} {pool}",
            publish=[
                f"result.{endpoint.hex}.>",
                f"progress.{endpoint.hex}.>",
                f"log.{endpoint.hex}.>",
                # Its lanes come and go, and there may be hundreds. Who knows the name of one may take from it: the
                # names are 128 random bits, told to the lane's pool alone.
                "$JS.API.CONSUMER.MSG.NEXT.TASKS.*",
                "$JS.ACK.TASKS.*.>",
                f"$JS.API.DIRECT.GET.RESULTS.result.{endpoint.hex}.>",
                f"$JS.API.DIRECT.GET.CONTROL.{control}",
                # Its processes on several machines tell each other what they hold. No stream takes that up.
                peers,
            ],
            subscribe=[f"{inbox}.>", control, peers],
            ttl_s=ttl_s,
            inbox_prefix=inbox,
        )


def creds_file(credentials: Credentials) -> str:
    """Credentials as a `.creds` file, which every NATS client reads."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{credentials.jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{credentials.seed}\n------END USER NKEY SEED------\n"
    )


def _inbox(session_id: str) -> str:
    return f"_INBOX_{token(session_id)}"


def _part(document: dict[str, Any]) -> str:
    return _base64url(json.dumps(document, separators=(",", ":")).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
