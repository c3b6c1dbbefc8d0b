"""Domains of accounts, and the patterns that administrators write for them."""

from __future__ import annotations

from collections.abc import Iterable


def domain_matches(domain: str, patterns: Iterable[str]) -> bool:
    """Whether a domain is one of these; `*.example.org` is every one below `example.org`, and not that one itself."""
    name = domain.lower().rstrip(".")
    return bool(name) and any(_matches(name, pattern.lower().rstrip(".")) for pattern in patterns)


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return name.endswith(pattern[1:])
    return name == pattern
