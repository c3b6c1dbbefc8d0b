"""The `engine:` of a configuration: what is read from it, and what is said of mistakes."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

import pytest
import yaml

from headrace.endpoint.engines.keys import Keys
from headrace.endpoint.engines.providers import LAUNCHERS, PROVIDERS, Launcher, Slurm, options_of
from headrace.endpoint.engines.settings import (
    DaskSettings,
    ParslSettings,
    ProcessSettings,
    ThreadSettings,
    engine_settings,
)
from headrace.endpoint.errors import EngineSettingsInvalid

PAGE = """
type: GlobusComputeEngine
container_type: docker
container_uri: python:3.12
container_cmd_options:
provider:
  init_blocks: 1
  max_blocks: 1
  min_blocks: 0
  type: LocalProvider
"""

CLUSTER = """
type: GlobusComputeEngine
max_workers_per_node: 4
available_accelerators: 2
address:
  type: address_by_interface
  ifname: ib0
provider:
  type: SlurmProvider
  partition: gpu
  account: 2041
  walltime: 10:30:00
  scheduler_options: "#SBATCH --constraint=a100"
  worker_init: module load python
  launcher:
    type: SrunLauncher
    overrides: --cpu-bind=none
job_status_kwargs:
  max_idletime: 60
"""


@pytest.mark.parametrize(
    ("older", "strategy", "max_idletime"),
    [
        ("{type: SimpleStrategy, max_idletime: 90}", "simple", 90),
        ("htex_auto_scale", "htex_auto_scale", 120),
        ("none", "none", 120),
    ],
)
def test_the_older_way_to_name_a_strategy_is_read(older: str, strategy: str, max_idletime: float) -> None:
    settings = engine_settings(yaml.safe_load(f"type: ParslEngine\nstrategy: {older}\nmax_workers: 3\n"))

    assert isinstance(settings, ParslSettings)
    assert settings.job_status_kwargs.strategy == strategy
    assert settings.job_status_kwargs.max_idletime == max_idletime
    assert settings.max_workers_per_node == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("type: ParslEngine\nstrategy: brave", "engine.strategy: 'brave' is none of them"),
        ("type: ParslEngine\nstrategy: {idle: 1}", "engine.strategy.idle: unknown key 'idle'"),
        (
            "type: ParslEngine\nstrategy: simple\njob_status_kwargs: {strategy: none}",
            "engine.strategy: job_status_kwargs says strategy as well",
        ),
        ("type: ParslEngine\nenable_mpi_mode: true", "engine.enable_mpi_mode: write `type: GlobusMPIEngine`"),
        ("type: ThreadEngine\nworking_dir: here", "engine.working_dir: all threads of a process share one"),
        ("max_tasks_per_child: 3", "engine.max_tasks_per_child: write max_tasks_per_worker"),
    ],
)
def test_keys_of_other_files_are_refused_with_what_to_do(text: str, told: str) -> None:
    (problem,) = problems(text)

    assert told in problem


def problems(text: str) -> list[str]:
    with pytest.raises(EngineSettingsInvalid) as caught:
        engine_settings(yaml.safe_load(text))
    return [str(problem) for problem in caught.value.problems]


def test_without_an_engine_there_are_processes() -> None:
    assert engine_settings(None) == engine_settings({}) == ProcessSettings()


def test_a_plain_local_provider_is_processes_of_this_machine_without_parsl() -> None:
    settings = engine_settings(yaml.safe_load(PAGE))

    assert settings == ProcessSettings(type="GlobusComputeEngine", container_type="docker", container_uri="python:3.12")


def test_blocks_of_a_plain_local_provider_are_so_many_times_the_workers() -> None:
    settings = engine_settings(
        {
            "type": "GlobusComputeEngine",
            "max_workers_per_node": 3,
            "provider": {"type": "LocalProvider", "max_blocks": 2},
        }
    )

    assert isinstance(settings, ProcessSettings)
    assert settings.max_workers_per_node == 6


def test_a_local_provider_that_asks_for_more_is_parsls() -> None:
    for provider in ({"nodes_per_block": 2}, {"launcher": {"type": "WrappedLauncher", "prepend": "nice"}}):
        assert isinstance(engine_settings({"type": "GlobusComputeEngine", "provider": provider}), ParslSettings)
    assert isinstance(engine_settings({"type": "ParslEngine"}), ParslSettings)


def test_a_cluster_is_read_with_all_that_was_said() -> None:
    settings = engine_settings(yaml.safe_load(CLUSTER))

    assert isinstance(settings, ParslSettings)
    assert isinstance(settings.provider, Slurm)
    assert list(settings.accelerators) == ["0", "1"]
    assert settings.job_status_kwargs.max_idletime == 60
    assert settings.provider.launcher is not None
    assert options_of(settings.provider, "launcher") == {
        "partition": "gpu",
        "account": "2041",
        "walltime": "10:30:00",
        "scheduler_options": "#SBATCH --constraint=a100",
        "worker_init": "module load python",
    }
    assert options_of(settings.provider.launcher) == {"overrides": "--cpu-bind=none"}


@pytest.mark.parametrize("name", ["ThreadEngine", "ThreadPoolEngine"])
@pytest.mark.parametrize("key", ["max_workers", "max_workers_per_node", "workers"])
def test_names_that_mean_the_same_are_read_alike(name: str, key: str) -> None:
    assert engine_settings({"type": name, key: 3}) == ThreadSettings(type=name, max_workers=3)


def test_dask_is_read() -> None:
    settings = engine_settings({"type": "DaskEngine", "address": "tcp://head:8786"})

    assert settings == DaskSettings(type="DaskEngine", address="tcp://head:8786")


@pytest.mark.parametrize(
    "address", ["head:8786", "tls://10.0.0.7:8786", "tcp://[fe80::1%eth0]:8786", "wss://dask.example.org:443"]
)
def test_an_address_that_dask_reads_is_taken(address: str) -> None:
    assert engine_settings({"type": "DaskEngine", "address": address}) == DaskSettings(
        type="DaskEngine", address=address
    )


@pytest.mark.parametrize(
    "address",
    ["nonsense", "tcp://head", "tpc://head:8786", "http://head:8786", "tcp://:8786", "::1:8786", "head:0", "a b:1", ""],
)
def test_an_address_of_no_scheduler_is_refused_with_what_is_expected(address: str) -> None:
    (told,) = problems(f"{{type: DaskEngine, address: {json.dumps(address)}}}")

    assert told.startswith(f"engine.address: {address!r} is no address of a Dask scheduler: expected host:port")
    assert "tcp://head:8786" in told


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("type: ParslEngin", "engine.type: 'ParslEngin' is none of them; did you mean 'ParslEngine'?"),
        ("max_worker: 2", "engine.max_worker: unknown key 'max_worker'; did you mean 'max_workers'?"),
        ("{type: ThreadEngine, max_workers: 0}", "engine.max_workers: 0 does not fit: expected `int` >= 1"),
        ("{workers: 1, max_workers: 2}", "engine.max_workers: means the same as 'max_workers_per_node'"),
        ("[1]", "engine: expected `key: value` lines, not [1]"),
        ("{type: ParslEngine, provider: Slurm}", "engine.provider: expected `key: value` lines, not 'Slurm'"),
        ("{type: ParslEngine, provider: {type: SlurmProvder}}", "did you mean 'SlurmProvider'?"),
        (
            "{type: ParslEngine, provider: {type: SlurmProvider, wall_time: 1}}",
            "engine.provider.wall_time: unknown key 'wall_time'; did you mean 'walltime'?",
        ),
        (
            "{type: ParslEngine, provider: {type: SlurmProvider, launcher: {type: SrunLauncer}}}",
            "engine.provider.launcher.type: 'SrunLauncer' is none of them; did you mean 'SrunLauncher'?",
        ),
        (
            "{type: ParslEngine, provider: {type: KubernetesProvider}}",
            "engine.provider: the key 'image' is missing",
        ),
        (
            "{type: ParslEngine, provider: {type: LocalProvider, max_blocks: 1, min_blocks: 2}}",
            "engine.provider.min_blocks: 2 is more than max_blocks, which is 1",
        ),
        (
            "{type: ParslEngine, job_status_kwargs: {strategy: clever}}",
            "engine.job_status_kwargs.strategy: 'clever' does not fit",
        ),
        ("{container_type: docker}", "engine.container_type: needs container_uri"),
        ("{container_uri: python}", "engine.container_uri: needs container_type"),
        ("{type: DaskEngine, tls_client_key: k}", "tls_client_cert and tls_client_key belong together"),
    ],
)
def test_a_mistake_is_told_with_its_key_and_what_to_do(text: str, problem: str) -> None:
    told = problems(text)

    assert len(told) == 1
    assert problem in told[0]


def test_all_mistakes_are_told_at_once() -> None:
    told = problems("{type: ParslEngine, labl: x, encrypted: 7, provider: {type: LocalProvider, blocks: 1}}")

    assert [line.partition(":")[0] for line in told] == ["engine.provider.blocks", "engine.labl", "engine.encrypted"]


def parameters(owner: type) -> set[str]:
    return set(inspect.signature(owner).parameters)


def keys_of(kind: type[Keys]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)} - {"type"}


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_keys_of_a_provider_are_parsls(name: str) -> None:
    theirs: Any = getattr(pytest.importorskip("parsl.providers"), name)

    # A few providers do not take all that the others have; Parsl's own word decides.
    assert parameters(theirs) <= keys_of(PROVIDERS[name])
    assert keys_of(PROVIDERS[name]) - parameters(theirs) <= {"nodes_per_block", "worker_init", "launcher"}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_keys_of_a_launcher_are_parsls(name: str) -> None:
    assert parameters(getattr(pytest.importorskip("parsl.launchers.launchers"), name)) <= keys_of(Launcher)
