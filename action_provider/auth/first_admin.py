"""The first administrator: whoever starts the service must be able to use it."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from headrace.action_provider.auth.callers import user_key, user_urn
from headrace.action_provider.auth.tokens import new_token, record_of
from headrace.bus.errors import RecordConflict
from headrace.bus.models import UserRecord
from headrace.bus.operator import write_private
from headrace.bus.tables import Tables

logger = logging.getLogger(__name__)

ADMIN = "admin"
TOKEN_FILE = "admin.token"  # noqa: S105  # the name of the file, not a token


async def ensure_admin(tables: Tables, home: Path, *, write: bool) -> None:
    """See to it that there is an administrator, and that the token in `home/admin.token` is theirs.

    A token that lies there already is made valid (the store may be new); where none lies, `write` says whether to make
    one. The file comes last: a crash before it leaves a token that nobody knows, and the next start makes another.
    """
    await _ensure_user(tables)
    path = home / TOKEN_FILE
    if path.exists():
        record = record_of(path.read_text().strip(), principal=user_urn(ADMIN), label="first administrator")
        try:
            await tables.tokens.create(record.token_id, record)
        except RecordConflict:
            return
        logger.info("The administrator's token of %s is valid here now.", path, extra={"action": "admin_token_known"})
    elif write:
        token = new_token(principal=user_urn(ADMIN), label="first administrator")
        await tables.tokens.create(token.record.token_id, token.record)
        write_private(path, token.text + "\n")
        logger.info("Wrote an administrator's token to %s.", path, extra={"action": "admin_token_written"})


async def _ensure_user(tables: Tables) -> None:
    user = UserRecord(name=ADMIN, principal=user_urn(ADMIN), created_at=time.time(), admin=True)
    try:
        await tables.users.create(user_key(ADMIN), user)
    except RecordConflict:
        return
