"""Who may see, run and administer action providers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PUBLIC: Final = "public"
EVERYBODY: Final = "all_authenticated_users"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may do what with a provider: URNs of users and groups; whoever has a token (`all_authenticated_users`); and,
    for `visible_to`, everybody (`public`)."""

    visible_to: tuple[str, ...] = (PUBLIC,)
    runnable_by: tuple[str, ...] = (EVERYBODY,)
    administered_by: tuple[str, ...] = ()
    """They see, cancel and release every action of the provider."""
