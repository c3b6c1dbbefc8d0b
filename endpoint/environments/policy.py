"""What the endpoint's administrator lets functions bring along: `environments` of `config.yaml`.

environments: off                      the default: nothing is installed
environments: on                       any package
environments: [numpy, scipy]           these, and what they need themselves
environments:                          the same, and more
  packages: [numpy, scipy]
  index_url: https://pypi.example.org/simple
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace.bus.errors import EnvironmentUnusable
from headrace.bus.functions.requirements import Needs
from headrace.bus.sizes import parse_size

_HOW = "in `environments` of config.yaml"
MOST_BYTES: Final = 20 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentPolicy:
    """What may be installed, from where, and how much of it is kept. `packages` None is any; empty is none."""

    packages: frozenset[str] | None = frozenset()
    index_url: str | None = None
    """In place of PyPI."""
    find_links: str | None = None
    """A directory, or page, of packages that is used in place of any index."""
    python_downloads: bool = True
    """Whether uv may fetch a Python that is not on this machine."""
    most: int = 20
    """How many environments are kept."""
    most_bytes: int = MOST_BYTES
    """How large they may be, each and all together."""
    build_timeout_s: float = 1800.0

    @classmethod
    def of_document(cls, document: Any) -> EnvironmentPolicy:
        """Read what the schema `endpoint-config` allows under `environments`. Raises `ValueError` for a size."""
        if not isinstance(document, Mapping):
            return cls(packages=_packages(document))
        fields = dict(document)
        if "most_bytes" in fields:
            fields["most_bytes"] = parse_size(fields["most_bytes"])
        return cls(**{**fields, "packages": _packages(fields.get("packages", True))})

    @property
    def is_off(self) -> bool:
        """Whether nothing may be installed."""
        return self.packages is not None and not self.packages

    def check(self, needs: Needs) -> None:
        """Raises `EnvironmentUnusable` when the function's needs are not allowed here."""
        if self.packages is None or not needs:
            return
        if self.is_off:
            raise EnvironmentUnusable(
                f"the function needs {needs.describe()}, and this endpoint installs nothing for functions: its "
                f"administrator may allow it {_HOW}"
            )
        refused = sorted(set(needs.packages) - self.packages)
        if refused:
            raise EnvironmentUnusable(
                f"this endpoint does not install {', '.join(refused)} for functions; it installs "
                f"{', '.join(sorted(self.packages))}. Its administrator may allow more {_HOW}"
            )
        direct = [each for each in needs.requirements if "@" in each.partition(";")[0]]
        if direct:
            raise EnvironmentUnusable(
                f"this endpoint installs packages from its index only, not {direct[0]!r}: name the package alone"
            )


def _packages(said: bool | str | Sequence[str]) -> frozenset[str] | None:
    from packaging.utils import canonicalize_name

    # YAML reads a bare `on` or `off` as a truth value.
    if said is True or said == "on":
        return None
    if said is False or said == "off":
        return frozenset()
    return frozenset(canonicalize_name(each) for each in said)
