"""Which token goes with a request to a provider, and where none may be sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from headrace.bus.errors import KeysUnusable
from headrace.bus.installation.private_files import read_private
from headrace.sdk.errors import TokenUnavailable
from headrace.sdk.flows.errors import FlowError, TokenMissing
from headrace.sdk.flows.field_checks import is_safe
from headrace.sdk.profile import Profile
from headrace.sdk.token_source import TokenSource, asked

_NO_WORD: Final = "what was given for {url} does not look like a token: it must be one word of ASCII characters"
_OURSELVES: Final = ("User", "Flow")
"""Values of `RunAs` that mean whoever runs the flow: here that is one and the same."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens by a provider's URL (or the beginning of it), by a scope, or by a role of `RunAs`.

    A function may stand for a token; it is asked before each request, so that it can renew what ends after hours.
    `profile` has the token for the providers of one's own Headrace, which is sent to no other. Tokens are not shown
    by `repr`.
    """

    given: Mapping[str, str | TokenSource] = field(default_factory=dict, repr=False)
    profile: Profile | None = None

    def find(self, url: str, *, scope: str | None = None, run_as: str = "User") -> str:
        """The token for a provider. Raises `TokenMissing`, also where none may be sent."""
        self.check_safe(url)
        found = self._found(url, scope, run_as)
        try:
            return asked(found if callable(found) else lambda: found)
        except TokenUnavailable as error:
            problem = f"the token for {url} cannot be had: {error}" if callable(found) else _NO_WORD.format(url=url)
            raise TokenMissing(problem) from error

    def _found(self, url: str, scope: str | None, run_as: str) -> str | TokenSource:
        if run_as not in _OURSELVES:
            if run_as in self.given:
                return self.given[run_as]
            raise TokenMissing(f"there is no token for the role {run_as!r}: give one with --token {run_as}=VARIABLE")
        below = sorted((each for each in self.given if _is_below(url, each)), key=len)
        if below:
            return self.given[below[-1]]
        if scope is not None and scope in self.given:
            return self.given[scope]
        if self.profile is not None and _is_below(url, self.profile.url):
            return self.profile.token
        raise TokenMissing(f"there is no token for {url}: give one with --token {url}=VARIABLE, or in --tokens FILE")

    def check_safe(self, url: str) -> None:
        """Raises `TokenMissing` when a token would travel in the clear to another machine."""
        # Plain HTTP to one's own service is what its profile says; whoever wrote it knows the network between.
        own = self.profile is not None and _is_below(url, self.profile.url)
        if not is_safe(url) and not own:
            raise TokenMissing(f"no token is sent to {url}: use https:// (http:// is taken on this machine only)")

    def with_roles(self, roles: object) -> Tokens:
        """These, and those of an input's `_tokens`."""
        more = (
            {str(name): each for name, each in roles.items() if isinstance(each, str)}
            if isinstance(roles, dict)
            else {}
        )
        return Tokens({**more, **self.given}, self.profile)


def read_tokens(path: Path) -> dict[str, str]:
    """A file of tokens: an object of JSON, from URLs, scopes or roles to tokens; nobody else may read it.

    Raises `FlowError`.
    """
    try:
        document = json.loads(read_private(path))
    except KeysUnusable as error:
        raise FlowError(str(error).partition(";")[0] if "missing" in str(error) else str(error)) from None
    except ValueError as error:
        raise FlowError(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict) or not all(isinstance(each, str) for each in document.values()):
        raise FlowError(f'{path} is no object like {{"https://provider.example.org/x": "the token"}}')
    return document


def _is_below(url: str, prefix: str) -> bool:
    """Whether a URL is another one, or below it: at the same origin, and by whole steps of the path."""
    try:
        ours, theirs = urlsplit(url), urlsplit(prefix)
        same = (ours.scheme, ours.hostname, _port(ours.scheme, ours.port)) == (
            theirs.scheme,
            theirs.hostname,
            _port(theirs.scheme, theirs.port),
        )
    except ValueError:
        return False
    if not same or not theirs.hostname:
        return False
    path, below = theirs.path.rstrip("/"), ours.path.rstrip("/")
    return below == path or below.startswith(path + "/")


def _port(scheme: str, port: int | None) -> int | None:
    return port or {"http": 80, "https": 443}.get(scheme)
