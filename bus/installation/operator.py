"""The operator: the keys of a Headrace installation, where they lie, and the accounts they make.

    keys/                 0700
    ├── operator.json     all secrets of the installation; stays with the NATS server
    ├── service.json      what a service needs: a CORE credential, the key that signs EDGE users, and what it takes to
    │                     revoke them: a SYS credential for that alone and a signing key of the operator
    └── master.key        32 random bytes, from which bundle and result keys derive (headrace.bus.keys)

A service that runs on another machine gets `service.json` and `master.key`, nothing else. The accounts' JWTs are made
anew at each start of the NATS server, so a newer release may export more without touching the keys.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from headrace.bus.errors import KeysUnusable
from headrace.bus.installation.accounts import Accounts, claims_update, edge_claims, exports, limits
from headrace.bus.installation.credentials import (
    ACCOUNT_KEY,
    OPERATOR_KEY,
    AccountSigner,
    Credentials,
    KeyPair,
    Minter,
    sign_claims,
)
from headrace.bus.installation.private_files import make_private_directory, write_private
from headrace.bus.installation.service_keys import incomplete, read_document
from headrace.bus.keys import KEY_BYTES, KeyRing

_KINDS: Final = {"operator": OPERATOR_KEY}
_ACCOUNTS: Final = ("core", "edge")
_SIGNING: Final = ("operator", *_ACCOUNTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class OlderMaster:
    """A master secret that was replaced, and when (unix seconds)."""

    secret: bytes = field(repr=False)
    replaced_at: float

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> OlderMaster:
        """Read it as it is in operator.json. Raises `KeyError`, `TypeError` and `ValueError`."""
        secret = base64.b64decode(document["master"], validate=True)
        return cls(secret=secret, replaced_at=float(document["replaced_at"]))

    def document(self) -> dict[str, Any]:
        """As it is in operator.json."""
        return {"master": base64.b64encode(self.secret).decode(), "replaced_at": self.replaced_at}


class Operator:
    """All keys of an installation, on the machine that runs its NATS server."""

    def __init__(self, seeds: dict[str, str], master: bytes, older: Sequence[OlderMaster] = ()) -> None:
        self._pairs = {name: KeyPair(seed) for name, seed in seeds.items()}
        self._master = master
        self.older = tuple(older)
        """Master secrets that were replaced and are still believed, the latest first."""
        self.core = self._signer("core")
        self.edge = self._signer("edge")
        self.minter = Minter(edge=self.edge, core=self.core)

    @classmethod
    def open(cls, keys_dir: Path) -> Operator:
        """Load the keys from a directory, or create them there. Raises `KeysUnusable`."""
        operator = cls.load(keys_dir) if (keys_dir / "operator.json").exists() else cls._create(keys_dir)
        # They derive from operator.json, so a crash between the files, or one that was lost, mends itself here.
        if not (keys_dir / "master.key").exists():
            write_private(keys_dir / "master.key", operator._master)
        if not (keys_dir / "service.json").exists():
            write_private(keys_dir / "service.json", operator._service_document())
        return operator

    @classmethod
    def load(cls, keys_dir: Path) -> Operator:
        """Load keys that were created before. Raises `KeysUnusable`."""
        path = keys_dir / "operator.json"
        document = read_document(path)
        try:
            seeds = {name: str(document["seeds"][name]) for name in _seed_names()}
            older = [OlderMaster.of_document(each) for each in document.get("older_masters", ())]
            return cls(seeds, base64.b64decode(document["master"], validate=True), older)
        except (KeyError, TypeError, ValueError) as error:
            raise incomplete(path, error) from error

    @classmethod
    def _create(cls, keys_dir: Path) -> Operator:
        if (keys_dir / "service.json").exists():
            raise KeysUnusable(
                f"{keys_dir} holds service.json but no operator.json: these are the keys of a service alone, and new"
                " ones would not fit it. Restore operator.json from your backup, or start with another --home"
            )
        make_private_directory(keys_dir)
        operator = cls(_new_seeds(), os.urandom(KEY_BYTES))
        write_private(keys_dir / "operator.json", operator._document())
        return operator

    @classmethod
    def rotate(cls, keys_dir: Path, *, now: float) -> Operator:
        """Replace the master secret and every key that signs, and write them; nobody may use the keys meanwhile.

        The master secret of before is still believed, until it is forgotten. What stays is the identity of the accounts
        CORE and EDGE, under which the NATS server stores; it signs nothing. Raises `KeysUnusable`.
        """
        old = cls.load(keys_dir)
        kept = {name: pair.seed for name, pair in old._pairs.items() if name in _ACCOUNTS}
        older = (OlderMaster(secret=old._master, replaced_at=now), *old.older)
        return cls({**_new_seeds(), **kept}, os.urandom(KEY_BYTES), older)._write(keys_dir)

    @classmethod
    def forget(cls, keys_dir: Path, *, replaced_before: float) -> Operator:
        """Believe no more what was signed under master secrets that were replaced before a time (unix seconds).

        Raises `KeysUnusable`.
        """
        operator = cls.load(keys_dir)
        operator.older = tuple(each for each in operator.older if each.replaced_at >= replaced_before)
        return operator._write(keys_dir)

    def _write(self, keys_dir: Path) -> Operator:
        # These go first: they derive from operator.json, and are made anew where they are missing. So a crash leaves
        # all of the old keys or all of the new ones.
        for name in ("service.json", "master.key"):
            (keys_dir / name).unlink(missing_ok=True)
        write_private(keys_dir / "operator.json", self._document())
        return self.open(keys_dir)

    def key_ring(self) -> KeyRing:
        """The secrets of bundles and results."""
        return KeyRing(self._master, [each.secret for each in self.older])

    def accounts(self) -> Accounts:
        """The operator and its accounts, as a NATS server wants them."""
        operator, system = self._pairs["operator"], self._pairs["system"]
        operator_claims = {
            "type": "operator",
            "version": 2,
            "system_account": system.public,
            **self._signing("operator"),
        }
        return Accounts(
            operator_jwt=sign_claims(operator, subject=operator.public, name="headrace", claims=operator_claims),
            system_account=system.public,
            jwts={
                system.public: self._account(system.public, "SYS", limits(jetstream=False), {}),
                self.core.account: self._core_statement(room=True),
                self.edge.account: sign_claims(
                    operator,
                    subject=self.edge.account,
                    name="EDGE",
                    claims=edge_claims(self.core.account, self.edge.key.public, {}),
                ),
            },
        )

    def system_user(self) -> Credentials:
        """Who may state this installation's accounts anew, and nothing else."""
        system = AccountSigner(account=self._pairs["system"].public, key=self._pairs["system"])
        subjects = [claims_update(account) for account in (self.core.account, self.edge.account)]
        return system.user("operator", publish=subjects, subscribe=["_INBOX.>"], ttl_s=None)

    def storing(self, *, room: bool) -> tuple[str, bytes]:
        """What to tell the NATS server, and on which subject, so that it stores messages, or refuses to."""
        return claims_update(self.core.account), self._core_statement(room=room).encode()

    def _core_statement(self, *, room: bool) -> str:
        core_limits = limits(jetstream=True)
        if not room:
            # One byte is exceeded already, so everything is refused with a clear answer; 0 would switch JetStream off.
            core_limits["disk_storage"] = 1
        return self._account(self.core.account, "CORE", core_limits, {"exports": exports(), **self._signing("core")})

    def _signer(self, name: str) -> AccountSigner:
        return AccountSigner(account=self._pairs[name].public, key=self._pairs[f"{name}_signing"])

    def _signing(self, name: str) -> dict[str, list[str]]:
        return {"signing_keys": [self._pairs[f"{name}_signing"].public]}

    def _account(self, public: str, name: str, limits: dict[str, Any], more: dict[str, Any]) -> str:
        claims = {"type": "account", "version": 2, "limits": limits, **more}
        return sign_claims(self._pairs["operator"], subject=public, name=name, claims=claims)

    def _document(self) -> str:
        return json.dumps(
            {
                "version": 1,
                "seeds": {name: pair.seed for name, pair in self._pairs.items()},
                "master": base64.b64encode(self._master).decode(),
                "older_masters": [each.document() for each in self.older],
            },
            indent=1,
        )

    def _service_document(self) -> str:
        core = self.core.user("service", publish=None, subscribe=None, ttl_s=None)
        system = AccountSigner(account=self._pairs["system"].public, key=self._pairs["system"]).user(
            "service", publish=[claims_update(self.edge.account)], subscribe=["_INBOX.>"], ttl_s=None
        )
        return json.dumps(
            {
                "version": 1,
                "core": {"account": self.core.account, "jwt": core.jwt, "seed": core.seed},
                "edge": {"account": self.edge.account, "seed": self.edge.key.seed},
                "system": {"jwt": system.jwt, "seed": system.seed},
                "operator": {"seed": self._pairs["operator_signing"].seed},
                "older_masters": [base64.b64encode(each.secret).decode() for each in self.older],
            },
            indent=1,
        )


def _seed_names() -> list[str]:
    return ["operator", "system", *_ACCOUNTS, *(f"{name}_signing" for name in _SIGNING)]


def _new_seeds() -> dict[str, str]:
    return {name: KeyPair.create(_KINDS.get(name.removesuffix("_signing"), ACCOUNT_KEY)).seed for name in _seed_names()}
