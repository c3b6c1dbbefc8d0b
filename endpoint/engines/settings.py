"""The `engine:` of a configuration: which engine a pool has, with the keys that Globus Compute's administrators know.

    settings = engine_settings({"type": "ThreadEngine", "max_workers": 4})

Unknown keys are errors, and so are values that do not fit; an error names the key as `engine.provider.max_blocks`.
Light: nothing of Parsl or Dask is loaded here, so a configuration can be checked where they are not installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta

from headrace.bus.functions.serializers import Allowed
from headrace.endpoint.engines.containers.runtimes import IMAGE, options_problem, template_problem
from headrace.endpoint.engines.dask_address import address_problem
from headrace.endpoint.engines.keys import Keys, Path, Reader
from headrace.endpoint.engines.providers import Count, Positive, Provider, Seconds, is_plain_local, read_provider

PortRange = tuple[int, int]

ContainerType = Literal["docker", "podman", "podman-hpc", "apptainer", "singularity", "custom"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings(Keys):
    """What every engine has."""

    type: str = "ProcessEngine"
    max_retries_on_system_failure: Count | None = None
    """How often a task runs again whose worker died; by default twice."""
    run_in_sandbox: bool = False
    """Run each task in an empty directory of its own; not in threads, which share one."""
    working_dir: str | None = None
    """Where tasks run, and have their sandboxes; made where it is not there. In the endpoint's directory, unless it
    begins with `/`. Not for threads."""
    allowed_serializers: list[str] = field(default_factory=list)
    """The only strategies of which functions and arguments are read, `JSONData` and `DillCodeSource` say; by default
    all. Names of a kind (code, data) that is not named are all allowed."""

    @property
    def most_losses(self) -> int:
        """How many workers a task may take with it."""
        retries = self.max_retries_on_system_failure
        return 3 if retries is None else retries + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnProcesses(EngineSettings):
    """What engines have that run tasks in processes of their own."""

    container_type: ContainerType | None = None
    """What puts each worker into a container; `custom` is a command of one's own."""
    container_uri: str | None = None
    """The image that workers run in. It needs Python 3.11 or newer, not Headrace."""
    container_cmd_options: str | None = None
    """Further options for the container's command, split into words as a shell does, with nothing expanded. For
    `custom` the whole command: `{EXECUTOR_LAUNCH_CMD}` is the worker's, `{EXECUTOR_RUNDIR}` the directory that must be
    there under the same path, `{CONTAINER_URI}` the image."""
    available_accelerators: Count | list[str | int] = field(default_factory=list)
    """Accelerators, one for each worker, as names or as a number; no more workers start than there are."""

    @property
    def accelerators(self) -> Sequence[str]:
        """The names of the accelerators."""
        known = self.available_accelerators
        return [str(name) for name in (range(known) if isinstance(known, int) else known)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings(OwnProcesses):
    """`ProcessEngine`: processes of the endpoint's machine. The default."""

    synonyms: ClassVar[Mapping[str, str]] = {"max_workers": "max_workers_per_node", "workers": "max_workers_per_node"}
    refused: ClassVar[Mapping[str, str]] = {
        "max_tasks_per_child": "write max_tasks_per_worker, beside `engine` and not in it",
    }

    max_workers_per_node: Positive | None = None
    """How many tasks run at a time; by default `workers` of `config.yaml`."""
    worker_init: str = ""
    """Shell lines that run before each worker starts: `module load`, `conda activate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSettings(EngineSettings):
    """`ThreadEngine`: threads of the pool's own process."""

    synonyms: ClassVar[Mapping[str, str]] = {"max_workers_per_node": "max_workers", "workers": "max_workers"}
    refused: ClassVar[Mapping[str, str]] = {
        "working_dir": "all threads of a process share one working directory: remove it, or choose a ProcessEngine",
        "thread_name_prefix": "would change nothing: remove it",
    }

    max_workers: Positive | None = None
    """How many tasks run at a time; by default `workers` of `config.yaml`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaskSettings(EngineSettings):
    """`DaskEngine`: the workers of a Dask cluster."""

    synonyms: ClassVar[Mapping[str, str]] = {"max_workers_per_node": "max_workers", "workers": "max_workers"}

    address: str | None = None
    """A running scheduler, such as `tcp://host:8786` (or `tls://`, `ws://`, `wss://`, `ucx://`); without it the pool
    starts a cluster of its own."""
    max_workers: Positive | None = None
    """How many tasks run at a time; by default one for each thread of the cluster's workers."""
    tls_ca_file: str | None = None
    tls_client_cert: str | None = None
    tls_client_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling(Keys):
    """When a ParslEngine asks for blocks, and gives them back."""

    max_idletime: Seconds = 120.0
    """Seconds after which an idle block is given back."""
    strategy: Literal["none", "simple", "htex_auto_scale"] = "simple"
    """`simple` gives blocks back when all are idle, `htex_auto_scale` each one that is idle, `none` never asks."""
    strategy_period: Annotated[float, Meta(gt=0)] = 5.0
    """Seconds from one look to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address(Keys):
    """How a ParslEngine finds out what the nodes call the endpoint's machine."""

    type: Literal["address_by_interface", "address_by_hostname", "address_by_route", "address_by_query"]
    ifname: str | None = None
    """The network interface, for `address_by_interface`: `ib0`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParslSettings(OwnProcesses):
    """`ParslEngine`: workers in blocks (jobs, pods, machines) that Parsl's providers get for the pool."""

    synonyms: ClassVar[Mapping[str, str]] = {"max_workers": "max_workers_per_node"}
    refused: ClassVar[Mapping[str, str]] = {
        "enable_mpi_mode": "write `type: GlobusMPIEngine` in its place",
        "executor": "write the executor's keys here, beside `provider`",
        "launch_cmd": "Headrace starts Parsl's workers by itself; what has to come first goes into the provider's"
        " worker_init",
        "interchange_launch_cmd": "Headrace starts Parsl's interchange by itself: remove it",
        "block_error_handler": "tasks are told why their job failed, and it is asked for again: remove it",
        "manager_selector": "would change nothing: remove it",
        "storage_access": "files travel as arguments and results: remove it",
        "worker_ports": "write worker_port_range, in which both ports are found",
    }

    provider: Provider
    job_status_kwargs: Scaling = Scaling()
    """When blocks are asked for, and given back. `strategy`, beside it, is an older way to say the same: the name of a
    strategy, or `type` (`SimpleStrategy`) and `max_idletime`."""
    label: str = "headrace"
    max_workers_per_node: Positive | None = None
    cores_per_worker: Annotated[float, Meta(gt=0)] | None = None
    mem_per_worker: Annotated[float, Meta(gt=0)] | None = None
    """GB."""
    cpu_affinity: str | None = None
    """`none`, `block`, `block-reverse`, `alternating`, or a list as Parsl has it."""
    prefetch_capacity: Count | None = None
    heartbeat_period: Positive | None = None
    heartbeat_threshold: Positive | None = None
    drain_period: Positive | None = None
    poll_period: Positive | None = None
    address: str | Address | None = None
    """What the nodes call the endpoint's machine; by default they try all its addresses."""
    address_probe_timeout: Positive | None = None
    worker_port: Positive | None = None
    worker_port_range: PortRange | None = None
    interchange_port_range: PortRange | None = None
    encrypted: bool = True
    worker_debug: bool = False
    worker_logdir_root: str | None = None
    mpi_launcher: Literal["srun", "aprun", "mpiexec"] | None = None
    """Runs MPI functions: how their ranks are started. Only for `GlobusMPIEngine`."""
    max_workers_per_block: Positive | None = None
    """How many MPI functions share a block."""

    @property
    def is_mpi(self) -> bool:
        """Whether a block is shared out by nodes to MPI functions."""
        return self.type == "GlobusMPIEngine" or self.mpi_launcher is not None


ENGINES: Final[Mapping[str, type[EngineSettings]]] = {
    "ProcessEngine": ProcessSettings,
    "ThreadEngine": ThreadSettings,
    "ParslEngine": ParslSettings,
    "DaskEngine": DaskSettings,
    # Names that administrators of Globus Compute endpoints have in their files.
    "GlobusComputeEngine": ParslSettings,
    "GlobusMPIEngine": ParslSettings,
    "ProcessPoolEngine": ProcessSettings,
    "ThreadPoolEngine": ThreadSettings,
}

_STRATEGIES: Final[Mapping[str, str]] = {
    "none": "none",
    "simple": "simple",
    "SimpleStrategy": "simple",
    "htex_auto_scale": "htex_auto_scale",
}

CONTAINER_TYPES: Final = ("docker", "podman", "podman-hpc", "apptainer", "singularity", "custom")


def engine_settings(mapping: Mapping[Any, Any] | None, *, path: Path = ("engine",)) -> EngineSettings:
    """Read the mapping under `engine:`. An empty one is a ProcessEngine.

    A `GlobusComputeEngine` with a plain LocalProvider is a ProcessEngine, too: the same processes on the same machine,
    without Parsl. Raises `EngineSettingsInvalid`, which tells all problems, each with its path of keys.
    """
    reader = Reader()
    mapping = reader.mapping(mapping, path)
    name = reader.choice(mapping.get("type", "ProcessEngine"), ENGINES, (*path, "type"))
    settings: EngineSettings | None = None
    if name is not None:
        kind = ENGINES[name]
        if kind is ParslSettings:
            settings = _read_parsl(reader, name, mapping, path)
        else:
            settings = reader.read(kind, mapping, path, type=name)
    if settings is not None:
        _check(reader, settings, path)
    reader.finish()
    assert settings is not None  # noqa: S101 - without problems there are settings
    return settings


def _read_parsl(reader: Reader, name: str, mapping: Mapping[Any, Any], path: Path) -> EngineSettings | None:
    provider = read_provider(reader, mapping.get("provider"), (*path, "provider"))
    read: dict[str, Any] = {
        "type": name,
        "provider": provider,
        "job_status_kwargs": _read_scaling(reader, mapping, path),
    }
    mapping = {key: value for key, value in mapping.items() if key != "strategy"}
    if isinstance(mapping.get("address"), Mapping):
        read["address"] = reader.read(Address, mapping["address"], (*path, "address"))
    settings = reader.read(ParslSettings, mapping, path, **read)
    if settings is None or reader.problems:
        return None
    if name == "GlobusComputeEngine" and is_plain_local(settings.provider):
        return _as_processes(settings)
    return settings


def _read_scaling(reader: Reader, mapping: Mapping[Any, Any], path: Path) -> Scaling | None:
    """What `job_status_kwargs` says, and `strategy`, which older files have beside it."""
    here = (*path, "job_status_kwargs")
    scaling = dict(reader.mapping(mapping.get("job_status_kwargs"), here))
    older: Any = mapping.get("strategy")
    if older is None:
        return reader.read(Scaling, scaling, here)
    here = (*path, "strategy")
    said = dict(older) if isinstance(older, Mapping) else {"type": older}
    if (kind := said.pop("type", None)) is not None:
        name = _STRATEGIES.get(kind, kind) if isinstance(kind, str) else kind
        chosen = reader.choice(name, _STRATEGIES.values(), here)
        said = {"strategy": chosen, **said} if chosen else said
    for key in said.keys() & scaling.keys():
        reader.problem(here, f"job_status_kwargs says {key} as well; remove one of them")
    return reader.read(Scaling, {**scaling, **said}, here)


def _as_processes(settings: ParslSettings) -> ProcessSettings:
    workers = settings.max_workers_per_node
    return ProcessSettings(
        type=settings.type,
        max_retries_on_system_failure=settings.max_retries_on_system_failure,
        allowed_serializers=settings.allowed_serializers,
        max_workers_per_node=workers * max(1, settings.provider.most_blocks) if workers else None,
        worker_init=settings.provider.worker_init or "",
        available_accelerators=settings.available_accelerators,
        container_type=settings.container_type,
        container_uri=settings.container_uri,
        container_cmd_options=settings.container_cmd_options,
        run_in_sandbox=settings.run_in_sandbox,
        working_dir=settings.working_dir,
    )


def _check(reader: Reader, settings: EngineSettings, path: Path) -> None:
    """What no single key can tell."""
    try:
        Allowed.of(settings.allowed_serializers)
    except ValueError as error:
        reader.problem((*path, "allowed_serializers"), str(error))
    if isinstance(settings, OwnProcesses):
        if settings.container_type and not settings.container_uri and settings.container_type != "custom":
            reader.problem((*path, "container_type"), "needs container_uri, the image to run")
        if settings.container_uri and not settings.container_type:
            reader.problem((*path, "container_uri"), f"needs container_type, one of {', '.join(CONTAINER_TYPES)}")
        elif (settings.container_uri or "").startswith("-"):
            # A template may have it from a user, to whom the options of the runtime are not open.
            reader.problem((*path, "container_uri"), "begins with '-', which would be an option, and no image")
        _check_container_options(reader, settings, path)
    if isinstance(settings, ParslSettings):
        provider = settings.provider
        least, most = provider.min_blocks or 0, provider.most_blocks
        if least > most:
            reader.problem((*path, "provider", "min_blocks"), f"{least} is more than max_blocks, which is {most}")
        if provider.init_blocks is not None and provider.init_blocks > most:
            problem = f"{provider.init_blocks} is more than max_blocks, which is {most}"
            reader.problem((*path, "provider", "init_blocks"), problem)
    if isinstance(settings, DaskSettings):
        if bool(settings.tls_client_cert) != bool(settings.tls_client_key):
            reader.problem((*path, "tls_client_cert"), "tls_client_cert and tls_client_key belong together")
        wrong = None if settings.address is None else address_problem(settings.address)
        if wrong is not None:
            reader.problem((*path, "address"), wrong)


def _check_container_options(reader: Reader, settings: OwnProcesses, path: Path) -> None:
    options, problem = settings.container_cmd_options, None
    if settings.container_type == "custom":
        key = "container_cmd_options" if options is not None else "container_type"
        problem = template_problem(options)
        if problem is None and settings.container_uri and IMAGE not in (options or ""):
            key, problem = "container_uri", f"does nothing: write {IMAGE} into container_cmd_options, or remove it"
    else:
        key = "container_cmd_options"
        problem = options_problem(options) if options else None
    if problem is not None:
        reader.problem((*path, key), problem)
