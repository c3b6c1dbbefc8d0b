"""Errors of endpoints.

EndpointError               something about an endpoint on this machine
├── ConfigInvalid           config.yaml cannot be used; the message names line, key and problem
│   ├── EngineSettingsInvalid   the engine of a pool cannot be set up as its configuration says
│   └── TemplateInvalid     user_config_template.yaml.j2 cannot be used; the message names file, line and problem
├── OptionsInvalid          a user's options for an endpoint's configuration are refused
├── IdentityUnmapped        a principal is nobody on this machine whom a pool could run as
├── EnvironmentRefused      the packages that functions need may not, or cannot, be had here
├── EndpointNameInvalid     a name that cannot be the name of a directory
├── EndpointExists          an endpoint of that name is there already
├── EndpointMissing         no endpoint of that name
├── EndpointRunning         the endpoint's manager is running
├── RegistrationRefused     the service refuses a request of the endpoint
│   └── EventsRefused       the service does not take events that a watcher made
├── ServiceAway             no connection to the service, or it cannot work now
├── JournalUnusable         the journal of a watcher of files cannot be used
├── FolderAway              a watched folder is not there
├── WatcherDied             a part of a watcher ended that must not
└── CgroupsUnusable         the pool may not limit its workers by control groups
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from headrace.schemas import HeadraceError

CANNOT_START: Final = 78
"""The status with which a pool ends whose configuration cannot work: to start it again is no use (EX_CONFIG)."""


class EndpointError(HeadraceError):
    """Raised when something about an endpoint on this machine is wrong."""

    code = "EndpointError"


class ConfigInvalid(EndpointError):
    """Raised when `config.yaml` cannot be used; the message names line, key and problem."""

    code = "ConfigInvalid"


class SettingProblem(NamedTuple):
    """What is wrong with one setting: its keys from the outermost on, and the problem."""

    path: tuple[str, ...]
    problem: str

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {self.problem}"


class EngineSettingsInvalid(ConfigInvalid):
    """Raised when the engine of a pool cannot be set up as its configuration says; `problems` are all of them."""

    code = "EngineSettingsInvalid"

    def __init__(self, problems: Sequence[SettingProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class TemplateInvalid(ConfigInvalid):
    """Raised when `user_config_template.yaml.j2` cannot be used; the message names file, line and problem."""

    code = "TemplateInvalid"


class OptionsInvalid(EndpointError):
    """Raised when the options that a user gave for the endpoint's configuration are refused; the message names them."""

    code = "OptionsInvalid"


class IdentityUnmapped(EndpointError):
    """Raised when a principal is nobody on an endpoint's machine whom a pool could run as."""

    code = "IdentityUnmapped"


class EnvironmentRefused(EndpointError):
    """Raised when the packages that functions need may not, or cannot, be had at this endpoint."""

    code = "EnvironmentRefused"


class EndpointNameInvalid(EndpointError):
    """Raised when a name cannot be that of an endpoint's directory."""

    code = "EndpointNameInvalid"


class EndpointExists(EndpointError):
    """Raised when an endpoint of that name is there already."""

    code = "EndpointExists"


class EndpointMissing(EndpointError):
    """Raised when there is no endpoint of that name."""

    code = "EndpointMissing"


class EndpointRunning(EndpointError):
    """Raised when the endpoint's manager is running, as process `pid`, and therefore something cannot be done."""

    code = "EndpointRunning"

    def __init__(self, message: str, *, pid: int | None) -> None:
        self.pid = pid
        super().__init__(message)


class RegistrationRefused(EndpointError):
    """Raised when the service refuses a request of an endpoint; `status` is the HTTP status."""

    code = "RegistrationRefused"

    def __init__(self, message: str, *, status: int) -> None:
        self.status = status
        super().__init__(message)


class ServiceAway(EndpointError):
    """Raised when there is no connection to the service, or it cannot work now. Trying again later helps."""

    code = "ServiceAway"


class CgroupsUnusable(EndpointError):
    """Raised when a pool may not limit its workers' memory by control groups; the message says why."""

    code = "CgroupsUnusable"


class EventsRefused(RegistrationRefused):
    """Raised when the service does not take events for what they are: sending them again cannot help."""

    code = "EventsRefused"


class JournalUnusable(EndpointError):
    """Raised when the journal of a watcher of files cannot be used; the message says what to do."""

    code = "JournalUnusable"


class FolderAway(EndpointError):
    """Raised when a watched folder is not there, or is another one now."""

    code = "FolderAway"


class WatcherDied(EndpointError):
    """Raised when a part of a watcher of files ended that must not; the log has the reason."""

    code = "WatcherDied"
