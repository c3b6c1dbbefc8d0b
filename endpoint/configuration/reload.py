"""The configuration that a running manager goes by. It changes when the manager is told to read the files again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from headrace.endpoint.configuration.changes import changes
from headrace.endpoint.configuration.files import ConfigurationFiles
from headrace.endpoint.errors import ConfigInvalid

logger = logging.getLogger(__name__)

TAKEN: Final = "The changed configuration counts from now on."
SAME: Final = "The configuration has not changed."
REFUSED: Final = "The configuration stays as it was"


class LiveConfiguration:
    """`files` is what counts now. Making the object reads them, and raises `ConfigInvalid`."""

    def __init__(self, directory: Path) -> None:
        self.files = ConfigurationFiles.read(directory)
        # What it says is an answer to somebody, whatever `log_level` is wanted otherwise.
        logger.setLevel(logging.INFO)
        for note in self.files.notes:
            logger.info("config.yaml, %s", note, extra={"action": "config_note"})

    async def reload(self, check: Callable[[ConfigurationFiles], Awaitable[None]] | None = None) -> bool:
        """Read the files again, and tell what changed; whether anything did. Files with mistakes change nothing.

        `check` may refuse what the files say with `ConfigInvalid`, too.
        """
        try:
            fresh = ConfigurationFiles.read(self.files.directory)
            if check is not None:
                await check(fresh)
        except ConfigInvalid as error:
            logger.error("%s: %s", REFUSED, error, extra={"action": "config_refused"})
            return False
        found = changes(self.files, fresh)
        self.files = fresh
        for change in found:
            logger.info("Changed: %s", change, extra={"action": "config_changed"})
        # The last line of all, by which `headrace endpoint reload` knows that nothing more comes.
        logger.info("%s", TAKEN if found else SAME, extra={"action": "config_taken" if found else "config_same"})
        return bool(found)
