"""All ways to sign in to one service."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from headrace.action_provider.auth.callers import Authenticator, Caller
from headrace.action_provider.auth.foreign import ForeignTokens
from headrace.action_provider.auth.identities import IdentitySource
from headrace.action_provider.auth.settings import Admission, AuthSettings
from headrace.action_provider.auth.tokens import BuiltInTokens
from headrace.action_provider.errors import Forbidden, ServiceUnusable, Unauthenticated
from headrace.bus.store.tables import Tables

OWN_FORMS: Final = ("hr_", "hrp_")
"""How tokens of this service begin: they are shown to nobody else, however damaged they are."""

_OWN_UNKNOWN = "this token is not known here; get one with `headrace token create`"
_NO_USERS = "this service takes no tokens of its own from users; sign in with {}"


class Authenticators:
    """Asks each in turn: first the tokens of this service, then the systems in the order of the settings."""

    def __init__(self, settings: AuthSettings, tokens: BuiltInTokens, foreign: tuple[ForeignTokens, ...]) -> None:
        self._settings = settings
        self.tokens = tokens
        self.foreign = foreign
        self._others: tuple[Authenticator, ...] = foreign

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, settings: AuthSettings, tables: Tables, *, cache_s: float) -> AsyncIterator[Authenticators]:
        """All that the settings name, until the end. Raises `ServiceUnusable`."""
        tokens = BuiltInTokens(tables, cache_s=cache_s)
        foreign = []
        async with contextlib.AsyncExitStack() as stack:
            for source, admission in _sources(settings):
                await source.open()
                made = ForeignTokens(source, tables, admins=settings.admins, admission=admission, cache_s=cache_s)
                stack.push_async_callback(made.close)
                foreign.append(made)
            yield cls(settings, tokens, tuple(foreign))

    @property
    def scope(self) -> str | None:
        """The scope that callers of action providers need, where Globus Auth is asked."""
        return next((each.source.scope for each in self.foreign if each.source.scope), None)

    async def authenticate(self, bearer: str) -> Caller:
        """Who holds the token. Raises `Unauthenticated`, `Forbidden` and `Unavailable`."""
        caller = await self.tokens.authenticate(bearer)
        if caller is not None:
            self._check_own(caller)
            return caller
        if not bearer.startswith(OWN_FORMS):
            for each in self._others:
                caller = await each.authenticate(bearer)
                if caller is not None:
                    return caller
        raise Unauthenticated(self._unknown(), problem="invalid_token")

    def forget(self, bearer: str | None = None) -> None:
        """Look up anew what this service itself knows of the token's holder, or of everybody: something was withdrawn,
        or may have been."""
        self.tokens.forget(bearer)
        for each in self.foreign:
            each.forget(bearer)

    def _check_own(self, caller: Caller) -> None:
        # The first administrator stays: somebody must be able to repair what is wrong with the others.
        if caller.endpoint_id is None and not self._settings.tokens and not caller.admin:
            raise Forbidden(_NO_USERS.format(self._systems))

    def _unknown(self) -> str:
        if not self.foreign:
            return _OWN_UNKNOWN
        return f"this token is not known here; sign in with {self._systems}"

    @property
    def _systems(self) -> str:
        return " or ".join(each.source.name for each in self.foreign) or "another system"


def _sources(settings: AuthSettings) -> list[tuple[IdentitySource, Admission]]:
    """The systems that are asked. Their modules, and libraries, are loaded only where they are wanted."""
    found: list[tuple[IdentitySource, Admission]] = []
    if settings.oidc:
        try:
            from headrace.action_provider.auth.oidc import OidcIssuer
        except ImportError as error:
            raise ServiceUnusable(
                f"--auth oidc needs the package {error.name}; run `pip install 'headrace[oidc]'`"
            ) from None

        # Before Globus: a JWT says who has issued it, while any text may be a token of Globus.
        found += [(OidcIssuer(each, settings.network), each.admission) for each in settings.oidc]
    if settings.globus is not None:
        from headrace.action_provider.auth.globus import GlobusAuth

        found.append((GlobusAuth(settings.globus), settings.globus.admission))
    return found
