"""What templates are told of the user's side, under the names that Globus Compute has."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from typing import Any

from headrace.bus.tasks.bundles import Runtime


def user_runtime(runtime: Runtime) -> dict[str, Any]:
    """`_GC.user_runtime` for a submitter's runtime: what is known of it."""
    known: dict[str, Any] = {}
    if runtime.headrace:
        known["headrace_version"] = runtime.headrace
    if runtime.python:
        version = [int(part) for part in runtime.python.split(".") if part.isdigit()]
        known["python_version"] = runtime.python
        known["python"] = {"version": runtime.python, "version_tuple": version, "version_info": version}
    platform_known = {"node": runtime.host, "system": runtime.system}
    if any(platform_known.values()):
        known["platform"] = {name: value for name, value in platform_known.items() if value}
    return known


def own_runtime() -> dict[str, Any]:
    """`_GC.user_runtime` where nobody asks from elsewhere: that of this process."""
    python = ".".join(map(str, sys.version_info[:3]))
    return user_runtime(Runtime(python, version("headrace"), platform.node(), platform.system()))
