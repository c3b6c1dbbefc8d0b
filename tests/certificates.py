"""A certificate for `localhost` and `bus.example` that nobody vouches for but itself."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificate:
    """Its files; `cert` is also what must be trusted to believe it."""

    cert: Path
    key: Path


def make_certificate(directory: Path) -> Certificate:
    """A new one."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        " -addext subjectAltName=DNS:localhost,DNS:bus.example"
    )
    subprocess.run(
        [*command.split(), "-keyout", "key.pem", "-out", "cert.pem"], cwd=directory, check=True, capture_output=True
    )
    return Certificate(directory / "cert.pem", directory / "key.pem")
