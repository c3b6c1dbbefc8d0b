"""Writes the parts of the reference that the code knows better than anybody:

python docs/generate.py            write them
python docs/generate.py --check    only say which of them are out of date; status 1 when any is
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from command_reference import commands
from configuration_reference import configuration
from error_reference import errors
from route_reference import routes

REFERENCE = Path(__file__).parent / "reference"

DOCUMENTS: Mapping[str, Callable[[], str]] = {
    "cli.md": commands,
    "http.md": routes,
    "errors.md": errors,
    "endpoint-config.md": configuration,
}


def outdated() -> list[Path]:
    """The files that are not what they should be."""
    return [
        REFERENCE / name
        for name, write in DOCUMENTS.items()
        if not (REFERENCE / name).exists() or (REFERENCE / name).read_text(encoding="utf-8") != write()
    ]


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    logging.disable()  # the samples of errors are no news
    files = outdated()
    if "--check" in arguments:
        for file in files:
            print(f"{file} is out of date; run `python docs/generate.py`")
        return 1 if files else 0
    for file in files:
        file.write_text(DOCUMENTS[file.name](), encoding="utf-8")
        print(f"wrote {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
