"""The functions that bundles name: whether they may run here, and their code."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headrace.bus.errors import EnvironmentUnusable, FunctionUnusable, PoolFailed, SignatureInvalid, TaskError
from headrace.bus.functions.allow_list import AllowList
from headrace.bus.functions.code import FunctionCode
from headrace.bus.functions.requirements import Needs
from headrace.bus.keys import check_function_grant
from headrace.bus.tasks.bundles import FunctionUse
from headrace.endpoint.agent.code_cache import CodeCache
from headrace.endpoint.agent.held import Held
from headrace.endpoint.grant import PoolGrant


class Functions:
    """Checks uses of functions with the pool's `grant` of the moment; each of the allow lists must let them run.

    `pool_refusal` is why none may run, in a pool that is there only to say so. `needs` are those that the pool has the
    environment of.
    """

    def __init__(
        self,
        cache: CodeCache,
        grant: Callable[[], PoolGrant],
        allow_lists: Sequence[AllowList],
        pool_refusal: str | None = None,
        needs: str = "",
    ) -> None:
        self._cache = cache
        self._grant = grant
        self._allow_lists = tuple(allow_lists)
        self._pool_refusal = pool_refusal
        self._needs = needs

    def known_codes(self, held: Held) -> list[FunctionCode] | None:
        """The code of the bundle's functions if all of it is here and may run; None when that needs a closer look."""
        codes = []
        for use in held.bundle.functions:
            code = self._cache.known(use.id)
            if code is None or self._refusal(use, held) is not None or self._unusable(use, code) is not None:
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
        except FunctionUnusable as error:
            return error
        return self._unusable(use, code) or code

    def _unusable(self, use: FunctionUse, code: FunctionCode) -> TaskError | None:
        """Why a function whose code is here cannot run, or None."""
        if not all(each.permits(use.id, code.owner) for each in self._allow_lists):
            return _not_allowed(use)
        return self._unmet(code)

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
        if not all(each.may_permit(use.id) for each in self._allow_lists):
            return _not_allowed(use)
        return None


def _not_allowed(use: FunctionUse) -> FunctionUnusable:
    return FunctionUnusable(
        f"function {use.id} is not among this endpoint's allowed_functions, nor of its allowed_function_owners, which"
        " its administrator decides"
    )
