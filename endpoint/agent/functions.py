"""The functions that bundles name: whether they may run here, and their code."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from headrace.bus.bundles import FunctionUse
from headrace.bus.code import FunctionCode
from headrace.bus.errors import EnvironmentUnusable, FunctionUnusable, PoolFailed, SignatureInvalid, TaskError
from headrace.bus.keys import check_function_grant
from headrace.bus.requirements import Needs
from headrace.endpoint.agent.code_cache import CodeCache
from headrace.endpoint.agent.held import Held
from headrace.endpoint.grant import PoolGrant


class Functions:
    """Checks uses of functions with the pool's `grant` of the moment; `allowed` None allows all.

    `pool_refusal` is why none may run, in a pool that is there only to say so. `needs` are those that the pool has the
    environment of.
    """

    def __init__(
        self,
        cache: CodeCache,
        grant: Callable[[], PoolGrant],
        allowed: frozenset[UUID] | None,
        pool_refusal: str | None = None,
        needs: str = "",
    ) -> None:
        self._cache = cache
        self._grant = grant
        self._allowed = allowed
        self._pool_refusal = pool_refusal
        self._needs = needs

    def known_codes(self, held: Held) -> list[FunctionCode] | None:
        """The code of the bundle's functions if all of it is here and may run; None when that needs a closer look."""
        codes = []
        for use in held.bundle.functions:
            code = self._cache.known(use.id)
            if code is None or self._refusal(use, held) is not None or self._unmet(code) is not None:
                return None
            codes.append(code)
        return codes

    async def codes(self, held: Held) -> list[FunctionCode | TaskError]:
        """For each of the bundle's functions its code, fetched if need be, or why it cannot run here."""
        return [await self._code(use, held) for use in held.bundle.functions]

    async def _code(self, use: FunctionUse, held: Held) -> FunctionCode | TaskError:
        refusal = self._refusal(use, held)
        if refusal is not None:
            return refusal
        try:
            code = await self._cache.get(self._grant, use, held.address.principal)
            return self._unmet(code) or code
        except FunctionUnusable as error:
            return error

    def _unmet(self, code: FunctionCode) -> EnvironmentUnusable | None:
        if not code.requirements and not code.requires_python:
            return None
        needs = Needs(tuple(code.requirements), code.requires_python)
        if needs.text == self._needs:
            return None
        return EnvironmentUnusable(
            f"function {code.name!r} needs {needs.describe()}, and was sent to a pool without that: submit it "
            "through an Executor, as a task over HTTP or as an action"
        )

    def _refusal(self, use: FunctionUse, held: Held) -> TaskError | None:
        try:
            check_function_grant(
                self._grant().pool_secrets, use.grant, use.id, held.address.principal, use.grant_expires
            )
        except SignatureInvalid as error:
            return FunctionUnusable(str(error))
        # By the time at which it was stored: a task may wait for days, and nobody's clock but the server's counts.
        if held.stored_ns > use.grant_expires * 1_000_000_000:
            return FunctionUnusable(
                f"the grant to run function {use.id} here had expired when the task was submitted; submit it again"
            )
        if self._pool_refusal is not None:
            return PoolFailed(self._pool_refusal)
        if self._allowed is not None and use.id not in self._allowed:
            return FunctionUnusable(
                f"function {use.id} is not in this endpoint's allowed_functions, which its administrator decides"
            )
        return None
