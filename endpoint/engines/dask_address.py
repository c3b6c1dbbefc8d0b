"""Where a Dask scheduler is, as people write it; looked at without Dask, which an endpoint may not have."""

from __future__ import annotations

import re
from typing import Final

_SCHEMES: Final = ("tcp", "tls", "ws", "wss", "ucx", "ucxx")
_ADDRESS: Final = re.compile(
    r"((?P<scheme>[a-z]+)://)?"
    r"([^\s:/@\[\]]+|\[[0-9A-Fa-f:.]+(%\w+)?\])"  # a name or an address, one of IPv6 in brackets
    r":(?P<port>[0-9]{1,5})"
)
_FORM: Final = (
    "expected host:port, perhaps with tcp://, tls://, ws://, wss:// or ucx:// before it, such as tcp://head:8786, which"
    " `dask scheduler` prints; an address of IPv6 stands in [ ]"
)


def address_problem(address: str) -> str | None:
    """What is wrong with a scheduler's address; None where Dask can read it."""
    found = _ADDRESS.fullmatch(address)
    if found is None or found["scheme"] not in (None, *_SCHEMES) or not 0 < int(found["port"]) < 65_536:
        return f"{address[:80]!r} is no address of a Dask scheduler: {_FORM}"
    return None
