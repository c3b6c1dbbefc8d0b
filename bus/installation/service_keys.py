"""The keys that a service works with, and the file that they come in."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.bus.errors import KeysUnusable
from headrace.bus.installation.accounts import claims_update, edge_claims
from headrace.bus.installation.credentials import AccountSigner, Credentials, KeyPair, Minter, sign_claims
from headrace.bus.installation.private_files import read_private
from headrace.bus.keys import KEY_BYTES, KeyRing


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """What it takes to end EDGE credentials before they expire: the account is stated anew, with a list of them."""

    system: Credentials
    """A user of the SYS account who may do this and nothing else."""
    signer: KeyPair
    core_account: str
    edge: AccountSigner

    @property
    def subject(self) -> str:
        """Where the NATS servers are told. They end the connections of revoked users at once."""
        return claims_update(self.edge.account)

    def statement(self, revoked: Mapping[str, int]) -> bytes:
        """The account without these users: for each one's public key, what was issued up to a time (unix seconds)."""
        claims = edge_claims(self.core_account, self.edge.key.public, revoked)
        return sign_claims(self.signer, subject=self.edge.account, name="EDGE", claims=claims).encode()


class ServiceKeys:
    """What a service works with: its own CORE credential, the signing and revoking of EDGE users, the master secret."""

    def __init__(
        self,
        *,
        core: Credentials,
        edge: AccountSigner,
        revocation: Revocation,
        master: bytes,
        older_masters: Sequence[bytes] = (),
    ) -> None:
        self.core = core
        self.minter = Minter(edge=edge)
        self.revocation = revocation
        self._master = master
        self._older_masters = tuple(older_masters)

    def key_ring(self) -> KeyRing:
        """The secrets of bundles and results."""
        return KeyRing(self._master, self._older_masters)

    @classmethod
    def load(cls, keys_dir: Path) -> ServiceKeys:
        """Read `service.json` and `master.key`. Raises `KeysUnusable`."""
        document = read_document(keys_dir / "service.json")
        try:
            core = Credentials(jwt=document["core"]["jwt"], seed=document["core"]["seed"])
            edge = AccountSigner(account=document["edge"]["account"], key=KeyPair(document["edge"]["seed"]))
            revocation = Revocation(
                system=Credentials(jwt=document["system"]["jwt"], seed=document["system"]["seed"]),
                signer=KeyPair(document["operator"]["seed"]),
                core_account=document["core"]["account"],
                edge=edge,
            )
            older = [base64.b64decode(each, validate=True) for each in document.get("older_masters", ())]
        except (KeyError, TypeError, ValueError) as error:
            raise incomplete(keys_dir / "service.json", error) from error
        return cls(core=core, edge=edge, revocation=revocation, master=_read_master(keys_dir), older_masters=older)


def read_document(path: Path) -> dict[str, Any]:
    """Read a file of keys. Raises `KeysUnusable`."""
    try:
        document = json.loads(read_private(path))
    except ValueError as error:
        raise KeysUnusable(f"{path} is damaged ({error}); restore it from your backup") from error
    if not isinstance(document, dict):
        raise incomplete(path, "it is not an object")
    return document


def incomplete(path: Path, problem: object) -> KeysUnusable:
    """What to raise for a file of keys that lacks something."""
    return KeysUnusable(f"{path} is not complete ({problem}); restore it from your backup")


def _read_master(keys_dir: Path) -> bytes:
    master = read_private(keys_dir / "master.key")
    if len(master) < KEY_BYTES:
        raise KeysUnusable(f"{keys_dir / 'master.key'} is damaged: {len(master)} bytes, not {KEY_BYTES}")
    return master
