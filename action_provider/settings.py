"""The service's settings: made once at the command line, passed as an argument, never read from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace.action_provider.auth.settings import AuthSettings
from headrace.action_provider.provider_access import Access
from headrace.bus.eventing.sinks.addresses import AddressPolicy
from headrace.bus.network import DIRECT, Network
from headrace.bus.store.streams import StreamSettings
from headrace.bus.store.tables import PRESENCE_QUIET_TTL_S, PRESENCE_TTL_S
from headrace.bus.tasks.backlog import MOST_BUNDLES_PER_PRINCIPAL

MB = 1_000_000
_OWN_SCOPE = "urn:headrace:scope:action_all"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """How one service process runs. Durations are in seconds, sizes in bytes."""

    home: Path
    """Where `serving.json` and the first administrator's token are written."""
    keys_dir: Path
    nats_url: str
    public_nats_urls: tuple[str, ...] = ()
    """What sessions are told to connect to; empty is `nats_url`."""
    network: Network = DIRECT
    """How this process itself gets to the bus."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one; `serving.json` says which."""
    public_url: str = ""
    """Where users reach the service (`https://headrace.example.org`): what addresses in answers begin with. Empty is
    where it listens."""
    listen_fd: int | None = None
    """A socket that listens already, inherited from the parent, in place of host and port: connections wait in it
    while the service starts, and while it is started again."""
    dispatcher: bool = True
    """Whether this process matches events and watches deliveries as well."""

    run_wait_s: float = 0.5
    """How long an action's `run` waits for a quick end before it answers."""
    action_value_bytes: int = 48 * 1024
    """How many bytes, as JSON, the values of an action may have together; larger ones are given by reference."""
    provider_access: Mapping[str, Access] = field(default_factory=dict)
    """Who may use an action provider, by its path or form; whom it says otherwise: everybody who has a token."""
    admin_contact: str = "the administrator of this Headrace service"
    """Whom action providers name as theirs."""
    longest_action_s: float = 30 * 86_400.0
    """How long an action may go on: a later deadline, or none, is this one."""
    longest_release_after_s: float = 90 * 86_400.0
    """How long an action that has ended is kept at most, whatever was asked."""
    actions_look_s: float = 60.0
    """How often an action that goes on is looked at, when nobody says that it may have ended."""
    session_ttl_s: float = 600.0
    grant_ttl_s: float = 3600.0
    presence_ttl_s: float = PRESENCE_TTL_S
    """How long an endpoint counts as online after its last sign of life."""
    presence_quiet_ttl_s: float = PRESENCE_QUIET_TTL_S
    """Likewise where nothing happens, and its manager's request for wanted pools stands: its end is noticed at once."""
    auth: AuthSettings = field(default_factory=AuthSettings)
    """Whose tokens are taken."""
    token_cache_s: float = 1.0
    """How long a withdrawn token may go on working."""

    lists_mend_s: float = 3600.0
    """How often lists of actions are compared with the actions that have changed, though nothing seems to be amiss."""

    buses_mend_s: float = 300.0
    """How often buses without a stream, and those that are not quite removed, are looked for."""

    lanes_sweep_s: float = 60.0
    """How often lanes that nobody uses are removed, and bundles without one are looked for."""

    pools_sweep_s: float = 2.0
    """How often tasks are looked for whose pool sleeps though they are there; they should have woken it."""

    pool_answer_s: float = 2.0
    """How long whoever asks for a pool waits for an endpoint that is there to say whether it can be had."""

    failed_pools_kept_s: float = 3600.0
    """How long a pool that cannot be had is remembered, and shown, after somebody has asked for it.
    Options with a mistake in them are given once; who has an executor for them goes on asking."""

    most_bundles_per_principal: int | None = MOST_BUNDLES_PER_PRINCIPAL
    """Unfinished ones at one endpoint, where its owner has set no limit; None sets none either."""
    sinks: AddressPolicy = field(default_factory=AddressPolicy)
    """Where events may be sent by HTTP besides the public internet."""
    queue_watch_s: float = 5.0
    """How often clients are looked for that have gone far beyond their limit."""

    body_bytes: int = 10 * MB
    function_bytes: int = 10 * MB
    object_bytes: int = 16 << 30
    """The largest argument or result that is taken into the object store."""
    object_grace_s: float = 900.0
    """How long an object that nothing needs is kept."""
    object_sweep_s: float = 60.0
    """How often it is looked for such objects."""
    address_bytes: int = 8192
    most_tasks: int = 10_000
    """Tasks in one request."""

    bus_wait_s: float = 2.0
    """How long a request waits for a lost bus before it is answered with 503."""
    request_timeout_s: float = 10.0
    """The longest that a request takes, apart from the wait that it asked for."""
    body_timeout_s: float = 60.0
    longest_wait_s: float = 60.0
    start_timeout_s: float = 10.0
    """How long the service waits for the bus when it starts."""
    most_followers: int = 500
    """How many logs may be followed at a time."""
    keep_alive_s: float = 15.0
    """How often those who follow a log hear that it goes on."""
    drain_s: float = 2.0
    """How long open requests may take to end when the service stops."""

    streams: StreamSettings = field(default_factory=StreamSettings)

    @property
    def edge_urls(self) -> list[str]:
        """Where SDKs and pools find the bus."""
        return list(self.public_nats_urls) or [self.nats_url]

    @property
    def action_scope(self) -> str:
        """The scope that introspection of action providers says a token needs."""
        return _OWN_SCOPE if self.auth.globus is None else self.auth.globus.needed_scope

    def access_of(self, path: str) -> Access:
        """Who may use the action provider of this path or form."""
        return self.provider_access.get(path, Access())
