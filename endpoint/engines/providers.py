"""Where the workers of a ParslEngine come from: providers and launchers, with the keys that Parsl gives them.

What is not set here is as Parsl has it; that is what None stands for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from msgspec import Meta

from headrace.endpoint.engines.keys import Keys, Path, Reader

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
Text = str | int
"""A name that may look like a number: an account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher(Keys):
    """How the workers of a block are started on its nodes: one of Parsl's launchers."""

    type: str
    debug: bool | None = None
    overrides: str | None = None
    """Further options for the launcher's command (`srun`, `mpiexec`, `jsrun`, `aprun`)."""
    bind_cmd: str | None = None
    bash_location: str | None = None
    fail_on_any: bool | None = None
    prepend: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider(Keys):
    """What every provider has."""

    type: str
    init_blocks: Count | None = None
    min_blocks: Count | None = None
    max_blocks: Count | None = None
    parallelism: Annotated[float, Meta(ge=0)] | None = None
    nodes_per_block: Positive | None = None
    worker_init: str | None = None
    """Shell lines that run before the workers start: `module load`, `conda activate`."""
    launcher: Launcher | None = None

    @property
    def most_blocks(self) -> int:
        """How many blocks there may be at a time."""
        if self.max_blocks is not None:
            return self.max_blocks
        return 10 if self.type in _MANY_BLOCKS else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Local(Provider):
    """Processes on the machine of the endpoint."""

    cmd_timeout: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Provider):
    """What the batch systems have in common."""

    walltime: Text | None = None
    """`HH:MM:SS`; after this the system ends a block."""
    scheduler_options: str | None = None
    """Lines for the head of the job's script, `#SBATCH --constraint=gpu` for example."""
    cmd_timeout: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slurm(Batch):
    """Jobs of Slurm."""

    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    constraint: Text | None = None
    clusters: Text | None = None
    cores_per_node: Positive | None = None
    mem_per_node: Positive | None = None
    """GB."""
    gpus_per_node: Positive | None = None
    gres: Text | None = None
    exclusive: bool | None = None
    regex_job_id: str | None = None
    status_batch_size: Positive | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PBSPro(Batch):
    """Jobs of PBS Professional."""

    account: Text | None = None
    queue: Text | None = None
    select_options: str | None = None
    cpus_per_node: Positive | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Torque(Batch):
    """Jobs of Torque."""

    account: Text | None = None
    queue: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LSF(Batch):
    """Jobs of LSF."""

    project: Text | None = None
    queue: Text | None = None
    cores_per_block: Positive | None = None
    cores_per_node: Positive | None = None
    bsub_redirection: bool | None = None
    request_by_nodes: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GridEngine(Batch):
    """Jobs of Grid Engine."""

    queue: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Condor(Batch):
    """Jobs of HTCondor."""

    cores_per_slot: Positive | None = None
    mem_per_slot: float | None = None
    environment: Mapping[str, str] | None = None
    project: Text | None = None
    requirements: str | None = None
    transfer_input_files: list[str] | None = None
    cmd_chunk_size: Positive | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubernetes(Provider):
    """Pods of Kubernetes; the image needs Python with `headrace[parsl]`."""

    image: str
    namespace: str | None = None
    max_cpu: float | None = None
    max_mem: str | None = None
    init_cpu: float | None = None
    init_mem: str | None = None
    extra_requests: Mapping[str, str] | None = None
    extra_limits: Mapping[str, str] | None = None
    pod_name: str | None = None
    user_id: Text | None = None
    group_id: Text | None = None
    run_as_non_root: bool | None = None
    secret: str | None = None
    persistent_volumes: list[tuple[str, str]] | None = None
    service_account_name: str | None = None
    annotations: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AWS(Provider):
    """Machines of Amazon EC2."""

    image_id: str
    key_name: str
    instance_type: str | None = None
    region: str | None = None
    spot_max_bid: float | None = None
    key_file: str | None = None
    profile: str | None = None
    iam_instance_profile_arn: str | None = None
    state_file: str | None = None
    walltime: Text | None = None
    linger: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GoogleCloud(Provider):
    """Machines of Google Cloud."""

    project_id: str
    key_file: str
    region: str
    os_project: str
    os_family: str
    google_version: str | None = None
    instance_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Azure(Provider):
    """Machines of Azure."""

    vm_reference: Mapping[str, Any]
    location: str | None = None
    group_name: str | None = None
    key_name: str | None = None
    key_file: str | None = None
    vnet_name: str | None = None
    linger: bool | None = None


PROVIDERS: Final[Mapping[str, type[Provider]]] = {
    "LocalProvider": Local,
    "SlurmProvider": Slurm,
    "PBSProProvider": PBSPro,
    "TorqueProvider": Torque,
    "LSFProvider": LSF,
    "GridEngineProvider": GridEngine,
    "CondorProvider": Condor,
    "KubernetesProvider": Kubernetes,
    "AWSProvider": AWS,
    "GoogleCloudProvider": GoogleCloud,
    "AzureProvider": Azure,
}

LAUNCHERS: Final = (
    "SingleNodeLauncher",
    "SimpleLauncher",
    "SrunLauncher",
    "SrunMPILauncher",
    "MpiExecLauncher",
    "MpiRunLauncher",
    "JsrunLauncher",
    "AprunLauncher",
    "GnuParallelLauncher",
    "WrappedLauncher",
)

_MANY_BLOCKS = frozenset({"KubernetesProvider", "AWSProvider", "GoogleCloudProvider", "AzureProvider"})
_PLAIN_LAUNCHERS = frozenset({"SingleNodeLauncher", "SimpleLauncher"})
_LAST_OF_A_DAY = 60


def read_provider(reader: Reader, value: Any, path: Path) -> Provider | None:
    """A provider, the local one where none is named."""
    mapping = reader.mapping(value, path)
    name = reader.choice(mapping.get("type", "LocalProvider"), PROVIDERS, (*path, "type"))
    if name is None:
        return None
    launcher = _read_launcher(reader, mapping["launcher"], (*path, "launcher")) if mapping.get("launcher") else None
    return reader.read(PROVIDERS[name], mapping, path, type=name, launcher=launcher)


def _read_launcher(reader: Reader, value: Any, path: Path) -> Launcher | None:
    mapping = reader.mapping({"type": value} if isinstance(value, str) else value, path)
    name = reader.choice(mapping.get("type"), LAUNCHERS, (*path, "type"))
    return reader.read(Launcher, mapping, path, type=name) if name else None


def is_plain_local(provider: Provider) -> bool:
    """Whether a provider asks for nothing but processes on this machine."""
    launcher = provider.launcher
    return (
        isinstance(provider, Local)
        and provider.nodes_per_block in (None, 1)
        and (launcher is None or launcher.type in _PLAIN_LAUNCHERS)
    )


def options_of(settings: Keys, *without: str) -> dict[str, Any]:
    """What is set, as Parsl's constructors take it."""
    options = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is None or field.name in {"type", *without}:
            continue
        hint = field.type
        if field.name == "walltime" and isinstance(value, int):
            # YAML reads 10:30:00 as a number in base 60.
            value = f"{value // 3600:02}:{value // _LAST_OF_A_DAY % 60:02}:{value % 60:02}"
        elif "Text" in str(hint):
            value = str(value)
        options[field.name] = value
    return options
