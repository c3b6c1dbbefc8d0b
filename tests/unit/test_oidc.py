"""Tokens of OpenID Connect issuers: which are believed, which are refused and how, and keys that change."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fake_issuer import FakeIssuer, SigningKey, fake_issuer
from hypothesis import given
from hypothesis import strategies as st

from headrace.action_provider.auth.identities import Identity
from headrace.action_provider.auth.oidc import OidcIssuer
from headrace.action_provider.auth.settings import OidcSettings
from headrace.action_provider.errors import Forbidden, Unauthenticated, Unavailable


@pytest.fixture(scope="module")
def serving() -> Iterator[FakeIssuer]:
    with fake_issuer() as issuer:
        yield issuer


@pytest.fixture
def issuer(serving: FakeIssuer) -> FakeIssuer:
    serving.keys = [SigningKey.make("first")]
    serving.more_keys = []
    serving.asked.clear()
    serving.status = 200
    return serving


def identify(issuer: FakeIssuer, *tokens: str, **settings: Any) -> Identity | None:
    """What one service says of these tokens, one after the other: the last answer."""

    async def run() -> Identity | None:
        source, found = OidcIssuer(issuer.settings(**settings)), None
        await source.open()
        for token in tokens:
            found = await source.identify(token)
        await source.close()
        return found

    return asyncio.run(run())


def refused(issuer: FakeIssuer, token: str, kind: type[Exception], match: str, **settings: Any) -> None:
    with pytest.raises(kind, match=match):
        identify(issuer, token, **settings)


def unsigned(document: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def test_a_good_token_says_who_its_holder_is(issuer: FakeIssuer) -> None:
    token = issuer.token(
        sub="a/b:c",
        groups=["lab", "x:y"],
        email="ada@example.org",
        email_verified=True,
        auth_time=1_790_000_000,
        amr=["pwd", "mfa"],
    )
    found = identify(issuer, token)
    assert found is not None
    host = issuer.url.removeprefix("http://").replace(":", "%3A")
    assert found.principal == f"urn:headrace:oidc:{host}:user:a%2Fb%3Ac"
    assert found.groups == {f"urn:headrace:oidc:{host}:group:lab", f"urn:headrace:oidc:{host}:group:x%3Ay"}
    (persona,) = found.personas
    assert (persona.domain, persona.authenticated_at, persona.mfa) == ("example.org", 1_790_000_000.0, True)


def test_issuers_and_claims_can_be_given_names(issuer: FakeIssuer) -> None:
    token = issuer.token(preferred_username="ada", roles="staff")
    settings = {"name": "lab", "principal_claim": "preferred_username", "groups_claim": "roles"}
    found = identify(issuer, token, **settings)
    assert found is not None
    assert found.principal == "urn:headrace:oidc:lab:user:ada"
    assert found.groups == {"urn:headrace:oidc:lab:group:staff"}


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_two_people_never_have_one_urn(first: str, second: str) -> None:
    issuers = [OidcSettings(issuer=f"https://{host}", audiences=("a",)) for host in ("a.org/b", "a.org")]
    try:
        urns = {each.user(name) for each in issuers for name in (first, second)}
        groups = {each.group(name) for each in issuers for name in (first, second)}
    except UnicodeEncodeError:  # half of a surrogate pair, which no JSON text has
        return
    assert len(urns) == len(groups) == 2 * len({first, second})
    assert not urns & groups


def test_an_address_that_nobody_has_verified_has_no_domain(issuer: FakeIssuer) -> None:
    for token in (issuer.token(email="a@example.org"), issuer.token(preferred_username="a@example.org")):
        found = identify(issuer, token)
        assert found is not None
        assert found.personas[0].domain == ""
    found = identify(issuer, issuer.token(email="a@example.org"), username_claim="email")
    assert found is not None
    assert found.personas[0].domain == "example.org"


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c", "...", "AgOpaqueToken0001", "é.é.é"])
def test_what_is_no_token_of_the_issuer_is_left_to_others(issuer: FakeIssuer, text: str) -> None:
    assert identify(issuer, text) is None
    assert not issuer.asked


def test_a_token_of_another_issuer_is_left_to_others(issuer: FakeIssuer) -> None:
    assert identify(issuer, issuer.token(iss=issuer.url + "/")) is None
    assert not issuer.asked


def test_times_count_with_some_room_for_clocks(issuer: FakeIssuer) -> None:
    now = time.time()
    refused(issuer, issuer.token(exp=now - 31), Unauthenticated, "expired")
    refused(issuer, issuer.token(nbf=now + 40), Unauthenticated, "not valid yet")
    refused(issuer, issuer.token(exp=None), Unauthenticated, "exp")
    assert identify(issuer, issuer.token(exp=now - 10, nbf=now + 10)) is not None


def test_a_token_for_another_service_is_forbidden(issuer: FakeIssuer) -> None:
    for audience in ("another", ["another", "third"], None, []):
        refused(issuer, issuer.token(aud=audience), Forbidden, "the audience headrace")
    assert identify(issuer, issuer.token(aud=["another", "headrace"])) is not None


def test_scopes_that_are_wanted_must_all_be_there(issuer: FakeIssuer) -> None:
    refused(issuer, issuer.token(scope="openid"), Forbidden, "lacks the scope run", scopes=("openid", "run"))
    refused(issuer, issuer.token(), Forbidden, "lacks", scopes=("run",))
    for given_as in ({"scope": "openid run"}, {"scp": ["run"]}):
        assert identify(issuer, issuer.token(**given_as), scopes=("run",)) is not None


def test_a_token_without_a_signature_is_refused(issuer: FakeIssuer) -> None:
    for algorithm in ("none", "None", "NONE", "", None):
        header = {"alg": algorithm, "kid": "first"}
        refused(issuer, f"{unsigned(header)}.{unsigned(issuer.claims())}.", Unauthenticated, "not taken here")


def test_a_public_key_is_no_shared_secret(issuer: FakeIssuer) -> None:
    """The algorithm is not what the token says: a public key, used as a secret, would let everybody sign."""
    key = SigningKey.make("rsa", "RS256")
    issuer.keys = [key]
    pem = key.private.public_key().public_bytes(*_pem())
    for algorithm, digest in (("HS256", hashlib.sha256), ("HS512", hashlib.sha512)):
        signed = f"{unsigned({'alg': algorithm, 'kid': 'rsa'})}.{unsigned(issuer.claims())}"
        mac = base64.urlsafe_b64encode(hmac.new(pem, signed.encode(), digest).digest()).rstrip(b"=").decode()
        refused(issuer, f"{signed}.{mac}", Unauthenticated, "not taken here")


def test_a_shared_secret_in_the_key_set_is_no_key(issuer: FakeIssuer) -> None:
    issuer.more_keys = [{"kty": "oct", "kid": "secret", "k": "c2VjcmV0" * 5, "alg": "HS256"}]
    assert identify(issuer, issuer.token()) is not None
    refused(issuer, issuer.token(headers={"kid": "secret"}), Unauthenticated, "not signed with a key")


def test_a_signature_of_somebody_else_is_refused(issuer: FakeIssuer) -> None:
    forged = issuer.token(SigningKey.make("first"))
    refused(issuer, forged, Unauthenticated, "not signed with a key")
    head, claims, signature = issuer.token().split(".")
    others = unsigned(issuer.claims(sub="admin"))
    for changed in (f"{head}.{others}.{signature}", f"{head}.{claims}.", f"{head}.{claims}.AAAA"):
        refused(issuer, changed, Unauthenticated, "not")


def test_a_key_that_the_token_brings_along_is_not_believed(issuer: FakeIssuer) -> None:
    mine = SigningKey.make("mine")
    for headers in ({"jwk": mine.public}, {"jku": f"{issuer.url}/mine"}, {"x5u": f"{issuer.url}/mine"}):
        refused(issuer, issuer.token(mine, headers=headers), Unauthenticated, "not signed with a key")
    assert f"{issuer.url}/mine" not in issuer.asked


def test_only_the_algorithms_of_the_settings_are_taken(issuer: FakeIssuer) -> None:
    refused(issuer, issuer.token(), Unauthenticated, "'ES256', which is not taken here", algorithms=("RS256",))


def test_a_key_is_used_with_the_algorithm_that_it_is_for(issuer: FakeIssuer) -> None:
    key = SigningKey.make("rsa", "RS256")
    key.public["alg"] = "PS256"
    issuer.keys = [key]
    refused(issuer, issuer.token(), Unauthenticated, "not signed with a key")


def test_a_token_that_names_no_key_is_tried_with_all_that_fit(issuer: FakeIssuer) -> None:
    issuer.keys = [SigningKey.make("other"), SigningKey.make("rsa", "RS256"), SigningKey.make("first")]
    header, claims = {"alg": "ES256"}, issuer.claims()
    import jwt

    nameless = jwt.encode(claims, issuer.keys[2].private, "ES256", headers=header)
    assert identify(issuer, nameless) is not None


def test_new_keys_are_fetched_when_a_token_names_one(issuer: FakeIssuer) -> None:
    old = issuer.token()
    issuer_keys = list(issuer.keys)

    async def rotated() -> None:
        source = OidcIssuer(issuer.settings(refetch_s=0.0))
        assert await source.identify(old) is not None
        issuer.rotate()
        assert await source.identify(issuer.token()) is not None
        with pytest.raises(Unauthenticated):
            await source.identify(issuer.token(issuer_keys[0]))

    asyncio.run(rotated())


def test_keys_that_nobody_knows_do_not_make_the_service_ask_again_and_again(issuer: FakeIssuer) -> None:
    async def flooded() -> None:
        source = OidcIssuer(issuer.settings())
        tokens = [issuer.token(SigningKey.make(f"unknown {number}")) for number in range(20)]
        for each in await asyncio.gather(*(source.identify(token) for token in tokens), return_exceptions=True):
            assert isinstance(each, Unauthenticated)

    asyncio.run(flooded())
    assert issuer.asked["/keys"] == 1


def test_an_issuer_that_is_away_is_unavailable_until_its_keys_are_known(issuer: FakeIssuer) -> None:
    issuer.status = 500
    refused(issuer, issuer.token(), Unavailable, "cannot be had now")

    async def away_later() -> None:
        issuer.status = 200
        source = OidcIssuer(issuer.settings(keys_s=0.0, refetch_s=0.0))
        await source.identify(issuer.token())
        issuer.status = 500
        assert await source.identify(issuer.token()) is not None

    asyncio.run(away_later())


def test_a_discovery_document_of_another_issuer_is_not_believed(issuer: FakeIssuer) -> None:
    other = OidcIssuer(issuer.settings(issuer=f"{issuer.url}/"))
    with pytest.raises(Unavailable):
        asyncio.run(other.identify(issuer.token(iss=f"{issuer.url}/")))


def test_a_token_without_a_name_is_forbidden(issuer: FakeIssuer) -> None:
    for name in (None, "", 7, "x" * 300):
        refused(issuer, issuer.token(oid=name), Forbidden, "'oid'", principal_claim="oid")


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_are_no_token(first: bytes, second: bytes, third: bytes) -> None:
    text = ".".join(base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in (first, second, third))
    source = OidcIssuer(OidcSettings(issuer="https://nowhere.invalid", audiences=("a",)))
    assert asyncio.run(source.identify(text)) is None


def _pem() -> tuple[Any, Any]:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
