"""The first administrator: whoever starts the service must be able to use it."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from msgspec import structs

from headrace.action_provider.auth.callers import user_key, user_urn
from headrace.action_provider.auth.tokens import new_token, record_of
from headrace.action_provider.errors import ServiceUnusable
from headrace.bus.errors import RecordConflict
from headrace.bus.installation.private_files import read_private, write_private
from headrace.bus.store.models import TokenRecord, UserRecord
from headrace.bus.store.tables import Tables

logger = logging.getLogger(__name__)

ADMIN = "admin"
_LABEL = "first administrator"
TOKEN_FILE = "admin.token"  # noqa: S105  # the name of the file, not a token


async def ensure_admin(tables: Tables, home: Path, *, write: bool) -> None:
    """See to it that there is an administrator, and that the token in `home/admin.token` is theirs.

    A token that lies there already is made valid (the store may be new), unless it was revoked; where none lies,
    `write` says whether to make one. The file comes last: a crash before it leaves a token that nobody knows, and the
    next start makes another. Raises `KeysUnusable` and `ServiceUnusable` for a file that cannot be used.
    """
    await _ensure_user(tables)
    path = home / TOKEN_FILE
    if path.exists():
        await _adopt(tables, path)
    elif write:
        token = new_token(principal=user_urn(ADMIN), label=_LABEL)
        await tables.tokens.create(token.record.token_id, token.record)
        write_private(path, token.text + "\n")
        logger.info("Wrote an administrator's token to %s.", path, extra={"action": "admin_token_written"})


async def revoke(tables: Tables, record: TokenRecord) -> None:
    """End a token. One that may lie in a home leaves a mark, or the next start would make it valid again."""
    if record.label == _LABEL:
        await tables.tokens.put(record.token_id, structs.replace(record, revoked=True))
    else:
        await tables.tokens.delete(record.token_id)


async def _adopt(tables: Tables, path: Path) -> None:
    try:
        text = read_private(path).decode().strip()
        record = record_of(text, principal=user_urn(ADMIN), label=_LABEL)
    except ValueError:
        raise ServiceUnusable(
            f"{path} does not hold a token (hr_<id>_<secret>); remove the file, and the next start makes a new token"
        ) from None
    try:
        await tables.tokens.create(record.token_id, record)
        logger.info("The administrator's token of %s is valid here now.", path, extra={"action": "admin_token_known"})
    except RecordConflict:
        found = await tables.tokens.need(record.token_id)
        if found.value.revoked:
            logger.warning(
                "The token in %s was revoked; remove the file, and the next start makes a new token.",
                path,
                extra={"action": "admin_token_revoked"},
            )


async def _ensure_user(tables: Tables) -> None:
    user = UserRecord(name=ADMIN, principal=user_urn(ADMIN), created_at=time.time(), admin=True)
    try:
        await tables.users.create(user_key(ADMIN), user)
    except RecordConflict:
        return
