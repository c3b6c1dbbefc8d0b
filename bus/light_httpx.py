"""`httpx` without its command line.

`import httpx` loads rich, click and pygments for a command that nobody here runs: three quarters of its time, 50 ms in
each of our processes. Told that the command line cannot be loaded, it does without, as when its extra is not installed.
"""

from __future__ import annotations

import sys

_COMMAND_LINE = "httpx._main"

if _COMMAND_LINE not in sys.modules:
    sys.modules[_COMMAND_LINE] = None  # type: ignore[assignment]  # Python's own way to say that it cannot be imported

import httpx  # noqa: E402 - after the line above, which is why this module is there

if sys.modules.get(_COMMAND_LINE, sys) is None:
    del sys.modules[_COMMAND_LINE]

__all__ = ["httpx"]
