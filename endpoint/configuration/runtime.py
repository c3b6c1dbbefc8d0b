"""What templates are told of the user's side, under the names that Globus Compute has."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from typing import Any

from headrace.bus.bundles import Runtime


def user_runtime(runtime: Runtime) -> dict[str, Any]:
    """`_GC.user_runtime` for a submitter's runtime."""
    version = [int(part) for part in runtime.python.split(".") if part.isdigit()]
    return {
        "headrace_version": runtime.headrace,
        "python_version": runtime.python,
        "python": {"version": runtime.python, "version_tuple": version, "version_info": version},
        "platform": {"node": runtime.host, "system": runtime.system},
    }


def own_runtime() -> dict[str, Any]:
    """`_GC.user_runtime` where nobody asks from elsewhere: that of this process."""
    python = ".".join(map(str, sys.version_info[:3]))
    return user_runtime(Runtime(python, version("headrace"), platform.node(), platform.system()))
