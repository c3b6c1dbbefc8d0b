"""What a sink answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a sink answered; names of headers are in small letters."""

    status: int
    headers: Mapping[str, str]
    excerpt: str = ""
