"""What `headrace.endpoint.pool` reads: the settings of one pool, as its file has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from headrace.bus.network import Network
from headrace.endpoint.configuration.pool_config import PoolConfig
from headrace.endpoint.directory import EndpointDirectory
from headrace.endpoint.fair_share import FairShare


def pool_settings(
    directory: EndpointDirectory,
    pool: str,
    config: PoolConfig,
    *,
    url: str,
    endpoint_id: UUID,
    token_path: Path,
    fair_share: FairShare,
    grace_s: float,
    network: Network,
) -> dict[str, Any]:
    """The settings of a pool with this configuration. Secrets are named by their file, never copied."""
    return {
        "service_url": url,
        "endpoint_id": str(endpoint_id),
        "token_path": str(token_path),
        "pool": pool,
        "engine": dict(config.engine),
        "workers": config.worker_count,
        "python": config.python,
        "environment": dict(config.environment),
        "limits": {
            "memory_bytes": config.worker_memory_limit,
            "max_tasks": config.max_tasks_per_worker,
            "sandboxes": str(directory.sandboxes(pool)) if config.sandbox else None,
            "keep_failed_sandboxes": config.keep_failed_sandboxes,
        },
        "allow_lists": [each.document() for each in config.allow_lists],
        "audit_path": None if config.audit_log_path is None else str(directory.audit_file(config.audit_log_path)),
        "task_log_limit_bytes": config.task_log_limit_bytes,
        "fair_share": fair_share.document(),
        "log_level": config.log_level,
        "grace_s": grace_s,
        "network": network.document(),
        "status_path": str(directory.pool_file(pool, "status.json")),
        "pids_path": str(directory.pool_file(pool, "pids")),
    }
