"""What a schema cannot say about the keys that both `config.yaml` and a template may have."""

from __future__ import annotations

from headrace.bus.sizes import parse_size, shown_size
from headrace.endpoint.configuration.yaml_file import YamlFile
from headrace.endpoint.worker.limits import LEAST_MEMORY_BYTES


def size_problems(file: YamlFile) -> list[str]:
    """What is wrong with `worker_memory_limit`, with its line."""
    if file.document.get("worker_memory_limit") is None:
        return []
    try:
        size = parse_size(file.document["worker_memory_limit"])
    except ValueError as error:
        problem = str(error)
    else:
        if size >= LEAST_MEMORY_BYTES:
            return []
        problem = f"{size} bytes are too few: a worker needs {shown_size(LEAST_MEMORY_BYTES)} at least"
    return [f"{file.at('/worker_memory_limit')}: worker_memory_limit: {problem}"]


def sandbox_problems(file: YamlFile) -> list[str]:
    """What is wrong with `keep_failed_sandboxes`, with its line."""
    if not file.document.get("keep_failed_sandboxes") or file.document.get("sandbox"):
        return []
    problem = "there are none to keep without `sandbox: true`; add that line"
    return [f"{file.at('/keep_failed_sandboxes')}: keep_failed_sandboxes: {problem}"]
