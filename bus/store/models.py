"""The records that the service keeps, as they lie in the key-value buckets (JSON of these Structs).

Fields are only ever appended, with defaults, so an older release reads what a newer one wrote. Times are unix seconds.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from headrace.bus.errors import EnvironmentUnusable, PoolFailed, TaskError
from headrace.bus.functions.allow_list import AllowList
from headrace.bus.functions.requirements import Needs
from headrace.bus.urns import canonical, canonical_set

PUBLIC: Final = "public"
"""Everybody with an account, where else a URN says who."""


class FunctionRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A registered function, without its code. Immutable."""

    function_id: UUID
    name: str
    owner: str
    python_version: str
    created_at: float
    description: str = ""
    public: bool = False
    metadata: dict[str, Any] = {}
    requirements: tuple[str, ...] = ()
    """The packages that it needs: see `headrace.bus.functions.requirements`."""
    requires_python: str = ""
    """The Python that it needs: a version or a specifier; empty is any."""
    input_schema: dict[str, Any] | None = None
    """What its arguments must be, as a JSON schema of an object; None is anything."""
    default_endpoint: UUID | None = None
    """Where its own action provider runs it when nobody says where."""

    @property
    def needs(self) -> Needs:
        """What it needs where it runs."""
        return Needs(self.requirements, self.requires_python)

    def visible_to(self, principal: str) -> bool:
        """Whether this principal may see and use the function."""
        return self.public or canonical(self.owner) == canonical(principal)


class FunctionCodeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The code of a function: its source, its cloudpickle, or both. Apart, so that lists need not read it."""

    function_id: UUID
    source: str | None = None
    pickled: bytes | None = None
    entry_point: str | None = None
    """The name in the source's module that is called; None is the function's name."""
    modules: bytes | None = None
    """The modules that travel with it: see `headrace.bus.functions.modules`."""


class QueueLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many bundles may be unfinished at an endpoint; None is the service's default."""

    bundles: int | None = None
    """Of all principals together."""
    bundles_per_principal: int | None = None


class AuthenticationPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the users of an endpoint must have signed in; the fields are those of `authentication-policy.json`."""

    policy_id: str = ""
    """One that Globus Auth evaluates; nothing else is said then."""
    allowed_domains: tuple[str, ...] = ()
    excluded_domains: tuple[str, ...] = ()
    authentication_assurance_timeout: float | None = None
    """In seconds; the name is that of Globus."""
    required_mfa: bool = False


class EndpointRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A registered endpoint and who may use it."""

    endpoint_id: UUID
    name: str
    owner: str
    created_at: float
    token_id: str
    """The token with which the endpoint's manager speaks."""
    public: bool = False
    shared_with: tuple[str, ...] = ()
    """URNs of users and groups."""
    allowed_functions: tuple[UUID, ...] | None = None
    """The only functions that run here; None allows all."""
    queue_limits: QueueLimits = QueueLimits()
    opened_to: tuple[str, ...] = ()
    """Whom its owner let in by command: URNs, and `PUBLIC` for everybody. `public` and `shared_with` come from its
    config.yaml, and are set anew at each start."""
    allowed_function_owners: tuple[str, ...] | None = None
    """Principals whose functions may all run here, besides `allowed_functions`; None when only those count."""
    per_user: bool = False
    """Whether each principal has pools of their own, also without options: they run as different local users."""

    authentication_policy: AuthenticationPolicy | None = None
    """How those who may use it must have signed in."""

    @property
    def is_public(self) -> bool:
        """Whether everybody may use it."""
        return self.public or PUBLIC in self.opened_to

    @property
    def guests(self) -> tuple[str, ...]:
        """The URNs that may use it, besides its owner and whoever else may because it is public."""
        opened = (each for each in self.opened_to if each != PUBLIC and each not in self.shared_with)
        return (*self.shared_with, *opened)

    def visible_to(self, urns: AbstractSet[str]) -> bool:
        """Whether somebody with these URNs (a principal and its groups) may see and use the endpoint."""
        return self.is_public or not canonical_set(urns).isdisjoint(canonical_set((self.owner, *self.guests)))

    def allows(self, function: FunctionRecord) -> bool:
        """Whether the allow list lets the function run here."""
        allowed = AllowList.of(self.allowed_functions, self.allowed_function_owners)
        return allowed.permits(function.function_id, function.owner)


class EndpointNameRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The claim of an owner's endpoint name: one endpoint per owner and name."""

    endpoint_id: UUID
    claimed_at: float = 0.0


class PoolPresence(msgspec.Struct, frozen=True, kw_only=True):
    """What a manager says of one pool."""

    pool: str
    workers: int = 0
    busy: int = 0
    queued: int = 0
    memory_bytes: int | None = None
    """Resident, of its processes on its manager's machine."""


class MachineLoad(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How busy a manager's machine is."""

    cpus: int
    load_1m: float | None = None
    memory_bytes: int | None = None
    memory_available_bytes: int | None = None
    disk_free_bytes: int | None = None


class PresenceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The sign of life of an endpoint; the record goes away by itself when the signs stop."""

    endpoint_id: UUID
    host: str
    python_version: str
    headrace_version: str
    seen_at: float
    pools: tuple[PoolPresence, ...] = ()
    manager: str = ""
    """Which of the endpoint's managers it is."""
    load: MachineLoad | None = None
    quiet: bool = False
    """Whether the next sign comes much later: nothing happens there."""


class UserRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A user who is known to the built-in tokens."""

    name: str
    principal: str
    created_at: float
    groups: tuple[str, ...] = ()
    """URNs of groups."""
    admin: bool = False
    removed_at: float | None = None
    """The user is there no more; the record stays, so that nobody else gets the name and what belonged to it."""


class RemovalRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint or a user that was removed: what is queued for it, or by it, ends. Goes away by itself."""

    kind: Literal["endpoint", "user"]
    subject: str
    """As it is in subjects: the hex of the endpoint's id, the token of the principal."""
    removed_at: float


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An API token. Only its SHA-256 is kept, so nobody can read tokens out of the store."""

    token_id: str
    sha256: str
    kind: Literal["user", "endpoint", "publisher"]
    """Whatever an older release does not know is no token for it: it must not take one for a user's."""
    principal: str
    created_at: float
    endpoint_id: UUID | None = None
    """The only endpoint that an endpoint's token may act for."""
    label: str = ""
    expires_at: float | None = None
    revoked: bool = False
    """It ended, and must not come back: the record of a token that lies in a home stays."""
    publishes: str = ""
    """What the sources of events begin with that a publisher's token may publish; empty is any source."""


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A credential that was handed out and has not expired: what a withdrawn token or access must end.

    `user_key` is the public key of the NATS user.
    """

    session_id: str
    kind: Literal["sdk", "pool", "publisher"]
    principal: str
    endpoint_id: UUID
    """Of a publisher: 0."""
    pool: str
    token_id: str
    user_key: str
    expires_at: float
    may_submit: bool = True
    urns: tuple[str, ...] = ()
    """Of a user of another system: all names, and the groups there through which they may use the endpoint."""
    bus: str = ""
    """Where a publisher may publish."""
    source: str = ""
    """With what the sources of its events begin."""
    label: str = ""
    """What people call it."""
    created_at: float = 0.0


class RevocationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A NATS user who is shut out until its credential would have expired; the record then goes away by itself."""

    user_key: str
    expires_at: float


class ObjectRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A payload that is too large for a message: what its owner's object of this SHA-256 consists of.

    Its chunks lie in the stream OBJECTS under `object.<upload>.<n>`, all of `chunk_bytes` bytes but the last one.
    """

    size: int
    upload: str
    chunks: int
    chunk_bytes: int
    created_at: float
    used_at: float
    """When it was uploaded or referred to last, roughly: it is not written at each use."""
    damaged: bool = False
    """A chunk was found that is not what was stored: the next upload replaces it."""


class ObjectUseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """That a bundle needs an object: as an argument, or as a result of one of its tasks."""

    endpoint_id: UUID
    pool: str
    group: UUID
    since: float


class LaneRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The lane of a principal at a pool: see `headrace.bus.queues.lanes`."""

    endpoint_id: UUID
    pool: str
    principal: str
    consumer: str
    """Who knows this name may take from the lane: it is told to its pool and to nobody else."""
    used_until: float
    """Until then the principal may submit without asking; later the lane may be removed if it is empty."""


class PoolReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one manager says of a pool. An endpoint on several machines has several managers."""

    manager: str
    state: Literal["starting", "running", "waiting", "stopped", "failed"]
    """`waiting`: for room among the endpoint's pools; `failed`: it cannot be had, for the reason in `problem`."""
    answers: int
    """The number of the wish (`PoolRecord.wanted`) that this answers."""
    at: float
    problem: str = ""
    code: str = ""
    """Which error the problem is for those who wait; empty is `PoolFailed`."""

    @property
    def is_running(self) -> bool:
        """Whether it runs there, or is about to."""
        return self.state in ("starting", "running", "waiting")


class PoolRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pool that somebody's options ask for: see `headrace.bus.queues.pools`. Goes away when long not used."""

    endpoint_id: UUID
    pool: str
    principal: str
    options: dict[str, Any]
    """The `user_endpoint_config`."""
    environment: str = ""
    """What its functions need: the text of `headrace.bus.functions.requirements.Needs`."""
    runtime: dict[str, str] = {}
    """What its first submitter runs on: `python`, `headrace`."""
    used_at: float
    """When it was used last, roughly: it is not written at each use."""
    wanted: int = 1
    """Grows each time that the pool is wanted while nobody has it running."""
    reports: tuple[PoolReport, ...] = ()
    accounts: dict[str, str] = {}
    """User names of the principal's accounts at another system, by their URNs, where local users depend on them."""

    @property
    def running(self) -> bool:
        """Whether some manager has it running, or is about to."""
        return any(each.is_running for each in self.reports)

    @property
    def running_now(self) -> bool:
        """Whether some manager has it running, or is about to, after the last wish."""
        return any(each.is_running and each.answers >= self.wanted for each in self.reports)

    @property
    def answered(self) -> bool:
        """Whether somebody has answered the last wish."""
        return any(each.answers >= self.wanted for each in self.reports)

    @property
    def asleep(self) -> bool:
        """Whether it must be wanted again before anybody starts it."""
        return self.answered and not self.running

    @property
    def given_up(self) -> bool:
        """Whether all who have answered the last wish say that it cannot be had."""
        answers = [each.state for each in self.reports if each.answers >= self.wanted]
        return self.asleep and all(state == "failed" for state in answers)

    def wanted_of(self, manager: str, *, restarted: bool = False) -> bool:
        """Whether a manager is to have it running, and has not answered that yet; what it ran before it was
        `restarted` counts as well."""
        if self.asleep and not self.given_up:
            return False
        # What others cannot do this one may be able to.
        mine = next((each for each in self.reports if each.manager == manager), None)
        if mine is None or mine.answers < self.wanted:
            return True
        return restarted and mine.is_running

    def failure(self, managers: AbstractSet[str]) -> str | None:
        """Why it cannot be had, when all these managers, of which there must be one, say so of the last wish."""
        failed = {each.manager: each.problem for each in self.reports if self._says_no(each)}
        return failed[min(managers)] if managers and failed.keys() >= managers else None

    def refusal(self, managers: AbstractSet[str]) -> TaskError | None:
        """The same as the error of those who wait for it."""
        problem = self.failure(managers)
        if problem is None:
            return None
        codes = {each.code for each in self.reports if self._says_no(each) and each.manager in managers}
        return EnvironmentUnusable(problem) if EnvironmentUnusable.code in codes else PoolFailed(problem)

    def _says_no(self, report: PoolReport) -> bool:
        return report.state == "failed" and report.answers >= self.wanted
