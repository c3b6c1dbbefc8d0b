"""A small Globus Auth with Globus Groups on loopback, for the real `globus_sdk` to talk to.

with fake_globus() as globus:                      # sets GLOBUS_SDK_SERVICE_URL_AUTH and _GROUPS
    token = globus.token("ada@example.org")        # active, with the scope of globus.client_id
    globus.revoke(token)
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
from on_a_thread import serving

from headrace.action_provider.auth.settings import GlobusSettings

GROUPS_SCOPE: Final = "urn:globus:auth:scope:groups.api.globus.org:view_my_groups_and_memberships"
CONSENT_NEEDED: Final = {
    "error": "dependent_consent_required",
    "errors": [{"unapproved_scopes": [GROUPS_SCOPE]}],
}


@dataclass
class FakeGlobus:
    """What it knows, and what it was asked. Tests change both as they like."""

    url: str = ""
    client_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    client_secret: str = "a-secret-of-the-service"
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What introspection says of each token."""
    groups: dict[str, list[str]] = field(default_factory=dict)
    """The groups of the holders of tokens."""
    dependent: dict[str, str] = field(default_factory=dict)
    """Tokens for Globus Groups, and in the place of which they stand."""
    grants: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """What the grant of dependent tokens answers for a token, where it is not the usual."""
    policies: dict[str, set[str]] = field(default_factory=dict)
    """The tokens that satisfy each policy."""
    asked: Counter[str] = field(default_factory=Counter)
    asked_for: Counter[str] = field(default_factory=Counter)
    """How often it was asked about each token."""
    held: set[str] = field(default_factory=set)
    """Tokens of which nothing is said before `released` is set, though everything else is answered."""
    status: int = 200
    """Anything else is the answer to everything."""
    released: threading.Event = field(default_factory=threading.Event)
    """Cleared, nothing is answered."""

    @property
    def scope(self) -> str:
        """What this service's callers need."""
        return f"https://auth.globus.org/scopes/{self.client_id}/action_all"

    def settings(self, **more: Any) -> GlobusSettings:
        """Settings of a service that asks here."""
        return GlobusSettings(**{"client_id": self.client_id, "client_secret": self.client_secret, **more})

    def token(self, username: str, *, linked: tuple[str, ...] = (), length: int = 40, **more: Any) -> str:
        """A token of somebody, and of the accounts that are linked."""
        text = secrets.token_urlsafe(length * 2)[:length]
        details = [{"sub": identity_of(name), "username": name} for name in (username, *linked)]
        said = {
            "active": True,
            "token_type": "Bearer",
            "scope": self.scope,
            "client_id": str(uuid.uuid4()),
            "sub": identity_of(username),
            "username": username,
            "aud": [self.client_id, "auth.globus.org"],
            "iss": "https://auth.globus.org",
            "exp": int(time.time()) + 3600,
            "identity_set": [each["sub"] for each in details],
            "identity_set_detail": details,
            "session_info": {"authentications": {identity_of(username): {"auth_time": int(time.time())}}},
        }
        self.tokens[text] = {**said, **more}
        return text

    def revoke(self, token: str) -> None:
        """It is not active from now on."""
        self.tokens[token] = {"active": False}

    def answer(self, method: str, path: str, query: dict[str, str], basic: str, bearer: str) -> tuple[int, Any]:
        """The answer to one request."""
        self.asked[path] += 1
        if path == "/v2/oauth2/token/introspect":
            self.asked_for[query.get("token", "")] += 1
        if not self.held or query.get("token") in self.held:
            self.released.wait(20)
        if self.status != 200:
            return self.status, {"code": "Trouble"}
        if path == "/v2/groups/my_groups":
            if bearer not in self.dependent:
                return 401, {"code": "UNAUTHORIZED"}
            return 200, [{"id": each} for each in self.groups.get(self.dependent[bearer], [])]
        if basic != f"{self.client_id}:{self.client_secret}":
            return 401, {"error": "invalid_client"}
        token = query.get("token", "")
        if path == "/v2/oauth2/token/introspect":
            return 200, self._introspected(token, query)
        return self._granted(token)

    def _introspected(self, token: str, query: dict[str, str]) -> dict[str, Any]:
        said = dict(self.tokens.get(token, {"active": False}))
        for name in ("identity_set", "identity_set_detail", "session_info"):
            if name not in query.get("include", "").split(","):
                said.pop(name, None)
        if said["active"] and "authentication_policies" in query:
            wanted = query["authentication_policies"].split(",")
            said["policy_evaluations"] = {
                each: {"evaluation": token in self.policies[each]} for each in wanted if each in self.policies
            }
        return said

    def _granted(self, token: str) -> tuple[int, Any]:
        if token in self.grants:
            return self.grants[token]
        if not self.tokens.get(token, {}).get("active"):
            return 400, {"error": "invalid_grant"}
        made = secrets.token_urlsafe(30)
        self.dependent[made] = token
        return 200, [
            {
                "access_token": made,
                "scope": GROUPS_SCOPE,
                "resource_server": "groups.api.globus.org",
                "expires_in": 172_800,
                "token_type": "Bearer",
            }
        ]


def identity_of(username: str) -> str:
    """The identity of a user name: always the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, username))


def urn_of(username: str) -> str:
    """Its URN."""
    return f"urn:globus:auth:identity:{identity_of(username)}"


@contextlib.contextmanager
def fake_globus() -> Iterator[FakeGlobus]:
    """Serve one, and point the library of Globus to it."""
    globus = FakeGlobus()
    globus.released.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(globus))
    server.daemon_threads = True
    globus.url = f"http://127.0.0.1:{server.server_port}/"
    with serving(server), pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOBUS_SDK_SERVICE_URL_AUTH", globus.url)
        patch.setenv("GLOBUS_SDK_SERVICE_URL_GROUPS", globus.url)
        try:
            yield globus
        finally:
            globus.released.set()


def _handler(globus: FakeGlobus) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two writes, and the second would wait 40 ms

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self._answer({name: each[0] for name, each in parse_qs(self.rfile.read(length).decode()).items()})

        def do_GET(self) -> None:
            self._answer({})

        def _answer(self, query: dict[str, str]) -> None:
            kind, _, value = self.headers.get("Authorization", "").partition(" ")
            basic = base64.b64decode(value).decode() if kind == "Basic" else ""
            bearer = value if kind == "Bearer" else ""
            status, document = globus.answer(self.command, urlsplit(self.path).path, query, basic, bearer)
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
