"""The watcher of an endpoint, as a process of its own: `python -m headrace.endpoint.watch SETTINGS`.

The manager writes the settings, and starts it again should it die. The token is read from its file for each request.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any

from headrace.bus.network import Network
from headrace.endpoint.errors import EndpointError
from headrace.endpoint.watch.rules import folder_rules
from headrace.endpoint.watch.watcher import Watcher, WatcherSettings

logger = logging.getLogger(__name__)


def main() -> None:
    """Watch until SIGTERM."""
    path = Path(sys.argv[1])
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    logging.basicConfig(
        level=document["log_level"].upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        stream=sys.stderr,
    )
    # One line for each request is no news.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    rules = folder_rules(document["folders"])
    token_path = Path(document["token_path"])
    watcher = Watcher(
        WatcherSettings(
            url=document["service_url"],
            token=lambda: token_path.read_text(encoding="ascii").strip(),
            directory=path.parent,
            sources={rule.name: f"/endpoints/{document['endpoint_id']}/folders/{rule.name}" for rule in rules},
            place={"endpoint": document["endpoint_id"]},
            rules=rules,
            network=Network.of_document(document["network"]),
        )
    )
    signal.signal(signal.SIGTERM, lambda number, frame: watcher.stop())
    # A terminal's Ctrl-C is for the manager, which ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        watcher.run()
    except EndpointError as error:
        logger.error("%s", error, extra={"action": "watcher_failed"})
        sys.exit(1)


if __name__ == "__main__":
    main()
