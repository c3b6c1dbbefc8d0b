"""Globus Auth as the real library asks it: what is believed, for how long, and what each trouble means."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import globus_sdk.gare
import pytest
from fake_globus import CONSENT_NEEDED, GROUPS_SCOPE, FakeGlobus, fake_globus, urn_of

from headrace.action_provider.auth.cache import Cache, Found
from headrace.action_provider.auth.globus import GlobusAuth
from headrace.action_provider.auth.identities import Identity
from headrace.action_provider.errors import (
    ConsentRequired,
    Forbidden,
    ServiceUnusable,
    Unauthenticated,
    Unavailable,
    answer_to,
)

INTROSPECT, GRANT, GROUPS = "/v2/oauth2/token/introspect", "/v2/oauth2/token", "/v2/groups/my_groups"
ADA, ADAS_OTHER = "ada@example.org", "ada@lab.example.com"
GROUP = "8D56A5F1-7E3B-4B7B-8A3D-5F3A3A3A3A3A"


@pytest.fixture(scope="module")
def server() -> Iterator[FakeGlobus]:
    with fake_globus() as serving:
        yield serving


@pytest.fixture
def globus(server: FakeGlobus) -> FakeGlobus:
    server.tokens.clear()
    server.grants.clear()
    server.dependent.clear()
    server.groups.clear()
    server.policies.clear()
    server.asked.clear()
    server.status = 200
    server.held.clear()
    server.released.set()
    return server


@asynccontextmanager
async def opened(globus: FakeGlobus, **settings: Any) -> AsyncIterator[GlobusAuth]:
    auth = GlobusAuth(globus.settings(**settings))
    await auth.open()
    globus.asked.clear()
    try:
        yield auth
    finally:
        await auth.close()


def with_auth(globus: FakeGlobus, work: Callable[[GlobusAuth], Awaitable[Any]], **settings: Any) -> Any:
    async def run() -> Any:
        async with opened(globus, **settings) as auth:
            return await work(auth)

    return asyncio.run(run())


def identify(globus: FakeGlobus, token: str, **settings: Any) -> Identity:
    found = with_auth(globus, lambda auth: auth.identify(token), **settings)
    assert isinstance(found, Identity)
    return found


async def groups_of(auth: GlobusAuth, token: str) -> frozenset[str]:
    identity = await auth.identify(token)
    assert identity is not None
    assert identity.find_groups is not None
    return await identity.find_groups()


def test_the_principal_is_the_subject_and_linked_accounts_are_names_of_the_same_person(globus: FakeGlobus) -> None:
    found = identify(globus, globus.token(ADA, linked=(ADAS_OTHER,)))
    assert found.principal == urn_of(ADA)
    assert found.names == {urn_of(ADA), urn_of(ADAS_OTHER)}
    assert [each.domain for each in found.personas] == ["example.org", "lab.example.com"]
    assert found.personas[0].authenticated_at == pytest.approx(time.time(), abs=60)
    assert found.personas[1].authenticated_at is None


@pytest.mark.parametrize("length", [1, 9, 40, 2049, 20_000])
def test_tokens_of_any_length_are_taken(globus: FakeGlobus, length: int) -> None:
    assert identify(globus, globus.token(ADA, length=length)).principal == urn_of(ADA)


def test_a_token_that_is_not_active_is_unknown_and_not_asked_for_again(globus: FakeGlobus) -> None:
    async def twice(auth: GlobusAuth) -> None:
        for _ in range(2):
            with pytest.raises(Unauthenticated):
                await auth.identify("nobody-has-this-token")

    with_auth(globus, twice)
    assert globus.asked[INTROSPECT] == 1


@pytest.mark.parametrize("claims", [{"scope": "openid email"}, {"scope": ""}, {"scope": None}, {"aud": ["another"]}])
def test_a_good_token_for_somebody_else_is_forbidden_and_the_scope_is_named(
    globus: FakeGlobus, claims: dict[str, Any]
) -> None:
    with pytest.raises(Forbidden, match=globus.scope) as caught:
        identify(globus, globus.token(ADA, **claims))
    assert f'scope="{globus.scope}"' in caught.value.headers["WWW-Authenticate"]


def test_what_was_refused_is_not_asked_for_again_and_again(globus: FakeGlobus) -> None:
    elsewhere, silent = globus.token(ADA, scope="openid"), globus.token(ADA)
    globus.grants[silent] = (400, CONSENT_NEEDED)

    async def thrice(auth: GlobusAuth) -> None:
        for _ in range(3):
            with pytest.raises(Forbidden, match="but not for this service"):
                await auth.identify(elsewhere)
            with pytest.raises(ConsentRequired) as caught:
                await groups_of(auth, silent)
            assert caught.value.required_scope

    with_auth(globus, thrice)
    assert (globus.asked[INTROSPECT], globus.asked[GRANT]) == (2, 1)


def test_further_scopes_do_no_harm(globus: FakeGlobus) -> None:
    assert identify(globus, globus.token(ADA, scope=f"openid {globus.scope} email", aud=None)).principal == urn_of(ADA)


def test_fifty_at_once_are_one_question(globus: FakeGlobus) -> None:
    token = globus.token(ADA)

    async def fifty(auth: GlobusAuth) -> list[Identity | None]:
        return await asyncio.gather(*(auth.identify(token) for _ in range(50)))

    found = with_auth(globus, fifty)
    assert globus.asked[INTROSPECT] == 1
    assert len({each.principal for each in found}) == 1


def test_a_revoked_token_is_believed_no_longer_than_the_cache_says(globus: FakeGlobus) -> None:
    token = globus.token(ADA)

    async def revoked(auth: GlobusAuth) -> None:
        await auth.identify(token)
        globus.revoke(token)
        with pytest.raises(Unauthenticated):
            await auth.identify(token)

    with_auth(globus, revoked, believe_s=0.0)


def test_nothing_is_believed_beyond_the_expiry_of_the_token(globus: FakeGlobus) -> None:
    token = globus.token(ADA, exp=time.time() - 5)  # our clock may be ahead: Globus Auth says active, and so be it

    async def twice(auth: GlobusAuth) -> None:
        await auth.identify(token)
        await auth.identify(token)

    with_auth(globus, twice)
    assert globus.asked[INTROSPECT] == 2


def test_groups_are_asked_for_once_and_only_when_they_are_wanted(globus: FakeGlobus) -> None:
    token = globus.token(ADA)
    globus.groups[token] = [GROUP]

    async def twice(auth: GlobusAuth) -> frozenset[str]:
        await auth.identify(token)
        assert globus.asked[GRANT] == 0
        await groups_of(auth, token)
        return await groups_of(auth, token)

    assert with_auth(globus, twice) == {f"urn:globus:groups:id:{GROUP.lower()}"}
    assert (globus.asked[GRANT], globus.asked[GROUPS]) == (1, 1)


def test_a_consent_that_is_missing_is_named_in_a_form_that_clients_of_globus_understand(globus: FakeGlobus) -> None:
    token = globus.token(ADA)
    globus.grants[token] = (400, CONSENT_NEEDED)
    with pytest.raises(ConsentRequired) as caught:
        with_auth(globus, lambda auth: groups_of(auth, token))
    needed = f"{globus.scope}[{GROUPS_SCOPE}]"
    assert caught.value.required_scope == needed
    for document in (caught.value.action_details, answer_to(caught.value, route="/").body()):
        read = globus_sdk.gare.to_gare(document)
        assert read is not None
        assert read.authorization_parameters.required_scopes == [needed]


def test_a_service_without_groups_in_its_scope_asks_for_the_consent_to_them(globus: FakeGlobus) -> None:
    token = globus.token(ADA)
    globus.grants[token] = (200, [])
    with pytest.raises(ConsentRequired):
        with_auth(globus, lambda auth: groups_of(auth, token))


def test_a_token_that_ends_before_its_groups_are_known_has_none(globus: FakeGlobus) -> None:
    token = globus.token(ADA)
    globus.grants[token] = (400, {"error": "invalid_grant"})
    assert with_auth(globus, lambda auth: groups_of(auth, token)) == frozenset()


def test_a_stale_token_for_groups_is_replaced(globus: FakeGlobus) -> None:
    token = globus.token(ADA)
    globus.groups[token] = [GROUP]

    async def again(auth: GlobusAuth) -> frozenset[str]:
        await groups_of(auth, token)
        globus.dependent.clear()
        return await groups_of(auth, token)

    assert len(with_auth(globus, again, groups_s=0.0)) == 1
    assert globus.asked[GRANT] == 2


def test_globus_in_trouble_is_unavailable_and_asked_a_bounded_number_of_times(globus: FakeGlobus) -> None:
    async def ask(auth: GlobusAuth) -> None:
        globus.status = 503
        with pytest.raises(Unavailable) as caught:
            await auth.identify(globus.token(ADA))
        assert int(caught.value.headers["Retry-After"]) >= 1
        assert globus.asked[INTROSPECT] == 2
        globus.status = 200
        assert await auth.identify(globus.token(ADA)) is not None

    with_auth(globus, ask)


def test_globus_that_does_not_answer_holds_nobody_longer_than_the_deadline(globus: FakeGlobus) -> None:
    async def ask(auth: GlobusAuth) -> None:
        globus.released.clear()
        with pytest.raises(Unavailable):
            await auth.identify("any-token")
        globus.released.set()

    with_auth(globus, ask, deadline_s=0.2, try_s=0.5)


def test_many_unknown_tokens_do_not_keep_those_waiting_that_were_good(globus: FakeGlobus) -> None:
    token, unknown = globus.token(ADA), [f"unknown {number}" for number in range(20)]

    async def ask(auth: GlobusAuth) -> None:
        await auth.identify(token)
        globus.held.update(unknown)
        globus.released.clear()
        flood = [asyncio.create_task(auth.identify(each)) for each in unknown]
        await asyncio.sleep(0)  # no time: all of them ask
        assert await auth.identify(token) is not None
        globus.released.set()
        for each in await asyncio.gather(*flood, return_exceptions=True):
            assert isinstance(each, Unauthenticated)

    with_auth(globus, ask, believe_s=0.0, most_at_once=4)


def test_a_policy_of_globus_auth_is_evaluated_there(globus: FakeGlobus) -> None:
    fresh, stale = globus.token(ADA), globus.token(ADA)
    globus.policies["p"] = {fresh}

    async def evaluated(auth: GlobusAuth, token: str, policy: str) -> bool:
        identity = await auth.identify(token)
        assert identity is not None
        assert identity.satisfies is not None
        return await identity.satisfies(policy)

    assert with_auth(globus, lambda auth: evaluated(auth, fresh, "p"))
    assert not with_auth(globus, lambda auth: evaluated(auth, stale, "p"))
    assert not with_auth(globus, lambda auth: evaluated(auth, fresh, "one that nobody knows"))


def test_wrong_credentials_of_the_service_are_told_at_its_start(globus: FakeGlobus) -> None:
    auth = GlobusAuth(globus.settings(client_id="somebody-else"))
    with pytest.raises(ServiceUnusable, match="somebody-else"):
        asyncio.run(auth.open())


def test_credentials_that_are_withdrawn_later_are_the_service_s_trouble_and_not_the_caller_s(
    globus: FakeGlobus, caplog: pytest.LogCaptureFixture
) -> None:
    secret = globus.client_secret

    async def ask(auth: GlobusAuth) -> None:
        globus.client_secret = "another one"
        with pytest.raises(Unavailable, match="its administrator"):
            await auth.identify(globus.token(ADA))

    try:
        with_auth(globus, ask)
    finally:
        globus.client_secret = secret
    assert "does not take this service's client id" in caplog.text


def test_a_missing_library_is_told_with_what_to_install(globus: FakeGlobus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "globus_sdk", None)
    with pytest.raises(ServiceUnusable, match=r"pip install 'headrace\[globus\]'"):
        asyncio.run(GlobusAuth(globus.settings()).open())


def test_the_service_starts_while_globus_is_away(globus: FakeGlobus, caplog: pytest.LogCaptureFixture) -> None:
    globus.status = 500
    with_auth(globus, lambda auth: asyncio.sleep(0))
    assert "does not answer" in caplog.text


def test_neither_token_nor_secret_is_ever_logged(globus: FakeGlobus, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = globus.token(ADA)
    identify(globus, token)
    globus.status = 500
    with pytest.raises(Unavailable) as caught:
        identify(globus, token)
    shown = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("headrace"))
    for secret in (token, globus.client_secret):
        assert secret not in shown
        assert secret not in str(caught.value)
        assert secret not in repr(globus.settings())


def test_a_cache_holds_no_more_than_it_may_and_drops_what_was_used_least_recently() -> None:
    async def fill() -> list[int]:
        cache: Cache[int] = Cache(size=2, name="a test")
        asked: list[int] = []

        def find(number: int) -> Callable[[], Awaitable[Found[int]]]:
            async def found() -> Found[int]:
                asked.append(number)
                return Found(number, 60)

            return found

        for number in (1, 2, 1, 3, 1, 2):
            assert await cache.get(str(number), find(number)) == number
        assert len(cache) == 2
        await cache.close()
        return asked

    assert asyncio.run(fill()) == [1, 2, 3, 2]


def test_one_who_leaves_does_not_take_the_answer_from_the_others() -> None:
    async def leave() -> int:
        cache: Cache[int] = Cache(size=2, name="a test")
        let_go = asyncio.Event()

        async def find() -> Found[int]:
            await let_go.wait()
            return Found(7, 60)

        first, second = (asyncio.create_task(cache.get("k", find)) for _ in range(2))
        await asyncio.sleep(0)  # no time: both wait
        first.cancel()
        let_go.set()
        return await second

    assert asyncio.run(leave()) == 7


def test_what_was_forgotten_while_it_was_found_out_is_not_kept() -> None:
    async def forget() -> int | None:
        cache: Cache[int] = Cache(size=2, name="a test")
        let_go = asyncio.Event()

        async def find() -> Found[int]:
            await let_go.wait()
            return Found(7, 60)

        asking = asyncio.create_task(cache.get("k", find))
        await asyncio.sleep(0)  # no time: it waits
        cache.forget("k")
        let_go.set()
        await asking
        return cache.peek("k")

    assert asyncio.run(forget()) is None
