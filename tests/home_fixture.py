"""A home as a release left it, with tasks queued: `tests/fixtures/homes/`, and the script that adds today's.

python tests/home_fixture.py N        write homes/N.tar and homes/N.json, for instance before a release
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from headrace_up import headrace_up

from headrace.sdk import Client

HOMES: Final = Path(__file__).parent / "fixtures" / "homes"


def main(name: str) -> int:
    """Make a home: a user, a function, a result, and tasks that are queued for its endpoint."""
    HOMES.mkdir(parents=True, exist_ok=True)
    archive = HOMES / f"{name}.tar"
    known: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory) / "home"
        with headrace_up(home, "--workers", "1") as up, Client(up.url, up.token) as client:
            known["endpoint"] = up.endpoint_id
            known["function"] = client.register_source_code("def double(x):\n    return 2 * x\n")
            known["ended"] = client.submit(up.endpoint_id, known["function"], [1])
            client.get_result(known["ended"], wait_s=20)
            known["user"] = client.create_user("ada")["principal"]
            known["token"] = client.create_token("ada")["token"]
        with headrace_up(home, "--no-endpoint") as up, Client(up.url, up.token) as client:
            known["queued"] = [client.submit(known["endpoint"], known["function"], [number]) for number in range(3)]
        command = [sys.executable, "-m", "headrace.cli.main", "backup", str(archive), "--home", str(home)]
        subprocess.run(command, check=True)
    archive.chmod(0o644)
    (HOMES / f"{name}.json").write_text(json.dumps(known, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
