"""The file in which a manager tells a pool what it needs to know (`headrace.endpoint.pool_settings` writes it)."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from headrace.bus.functions.allow_list import AllowList
from headrace.bus.network import DIRECT, Network
from headrace.endpoint.engines.processes.output import PRINTED_LIMIT
from headrace.endpoint.engines.settings import EngineSettings, ProcessSettings, engine_settings
from headrace.endpoint.fair_share import FairShare
from headrace.endpoint.worker.limits import WorkerLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """What a pool needs to know; the manager writes it as a file (0600) and names the file."""

    service_url: str
    endpoint_id: UUID
    token_path: Path
    pool: str
    workers: int
    python: str
    status_path: Path
    pids_path: Path
    environment: dict[str, str]
    """All that workers of this machine find; in the file, what is added to what they inherit."""
    added_environment: dict[str, str] = field(default_factory=dict)
    """What was added, for workers on other machines."""
    allow_lists: tuple[AllowList, ...] = ()
    """A function runs only if each of them lets it."""
    refusal: str | None = None
    """Why nothing runs here: the pool is there to say so."""
    needs: str = ""
    """What functions need that `python` has (`headrace.bus.functions.requirements`)."""
    engine: EngineSettings = field(default_factory=ProcessSettings)
    limits: WorkerLimits = field(default_factory=WorkerLimits)
    audit_path: Path | None = None
    task_log_limit_bytes: int = PRINTED_LIMIT
    fair_share: FairShare = field(default_factory=FairShare)
    log_level: str = "info"
    grace_s: float = 5.0
    network: Network = DIRECT

    @property
    def spool_path(self) -> Path:
        """The directory for large payloads."""
        if self.in_containers:
            return self.engine_directory / "spool"
        return self.status_path.absolute().with_name(f"pool-{self.pool}.spool")

    @property
    def in_containers(self) -> bool:
        """Whether workers share nothing with this process but the engine's directory."""
        return isinstance(self.engine, ProcessSettings) and self.engine.container_type is not None

    @property
    def worker_limits(self) -> WorkerLimits:
        """The limits, with the sandboxes where workers get at them."""
        if self.in_containers and self.limits.sandboxes is not None:
            return replace(self.limits, sandboxes=str(self.engine_directory / "sandboxes"))
        return self.limits

    @property
    def engine_directory(self) -> Path:
        """The directory for the engine's own files."""
        return self.status_path.absolute().with_name(f"pool-{self.pool}.engine")

    @classmethod
    def read(cls, path: Path) -> PoolSettings:
        """Read the file that the manager wrote."""
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        engine = engine_settings(document.get("engine"))
        limits = WorkerLimits(**document.get("limits") or {})
        if engine.working_dir is not None:
            limits = replace(
                limits, directory=str(Path(document["status_path"]).absolute().parent / engine.working_dir)
            )
        if engine.run_in_sandbox and limits.sandboxes is None:
            here = Path(document["status_path"])
            limits = replace(limits, sandboxes=str(Path(limits.directory or here.parent) / f"{here.name}.sandboxes"))
        return cls(
            service_url=document["service_url"],
            endpoint_id=UUID(document["endpoint_id"]),
            token_path=Path(document["token_path"]),
            pool=document["pool"],
            workers=int(document["workers"]),
            python=document.get("python") or sys.executable,
            status_path=Path(document["status_path"]),
            pids_path=Path(document["pids_path"]),
            environment=dict(document.get("environment") or {}),
            allow_lists=tuple(map(AllowList.of_document, document.get("allow_lists") or ())),
            refusal=document.get("refusal"),
            needs=document.get("needs") or "",
            engine=engine,
            limits=limits,
            audit_path=Path(document["audit_path"]) if document.get("audit_path") else None,
            task_log_limit_bytes=int(document.get("task_log_limit_bytes", PRINTED_LIMIT)),
            fair_share=FairShare.of_document(document.get("fair_share")),
            log_level=document.get("log_level", "info"),
            grace_s=float(document.get("grace_s", 5.0)),
            network=Network.of_document(document.get("network") or {}),
        )
