"""A small OpenID Connect issuer on loopback, with real keys.

with fake_issuer() as issuer:
    token = issuer.token(sub="ada")
    issuer.rotate()
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from on_a_thread import serving

from headrace.action_provider.auth.settings import OidcSettings

AUDIENCE = "headrace"


@dataclass
class SigningKey:
    """A private key, and its public part as a JWK."""

    key_id: str
    algorithm: str
    private: Any
    public: dict[str, Any]

    @classmethod
    def make(cls, key_id: str, algorithm: str = "ES256") -> SigningKey:
        """A new one; making one for ES256 takes no time."""
        if algorithm.startswith("ES"):
            private: Any = ec.generate_private_key(ec.SECP256R1())
            document = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
        else:
            private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            document = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
        return cls(key_id, algorithm, private, {**document, "kid": key_id, "use": "sig"})


@dataclass
class FakeIssuer:
    """What it serves, and how often it was asked."""

    url: str = ""
    keys: list[SigningKey] = field(default_factory=lambda: [SigningKey.make("first")])
    more_keys: list[dict[str, Any]] = field(default_factory=list)
    """Other documents in its key set."""
    asked: Counter[str] = field(default_factory=Counter)
    status: int = 200

    def settings(self, **more: Any) -> OidcSettings:
        """Settings of a service that takes its tokens."""
        return OidcSettings(**{"issuer": self.url, "audiences": (AUDIENCE,), **more})

    def rotate(self) -> None:
        """Sign with a new key; the old one is not served any more."""
        self.keys = [SigningKey.make(f"key {time.time_ns()}")]

    def claims(self, **more: Any) -> dict[str, Any]:
        """What a token of it says."""
        now = int(time.time())
        return {"iss": self.url, "sub": "ada", "aud": AUDIENCE, "iat": now, "exp": now + 600, **more}

    def token(self, key: SigningKey | None = None, headers: dict[str, Any] | None = None, **more: Any) -> str:
        """A token, signed with the newest key; claims that are None are left out."""
        key = key or self.keys[-1]
        claims = {name: value for name, value in self.claims(**more).items() if value is not None}
        text: str = jwt.encode(claims, key.private, key.algorithm, headers={"kid": key.key_id, **(headers or {})})
        return text

    def answer(self, path: str) -> tuple[int, Any]:
        """The answer to one request."""
        self.asked[path] += 1
        if self.status != 200:
            return self.status, {}
        if path == "/.well-known/openid-configuration":
            return 200, {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        return 200, {"keys": [*(key.public for key in self.keys), *self.more_keys]}


@contextlib.contextmanager
def fake_issuer() -> Iterator[FakeIssuer]:
    """Serve one."""
    issuer = FakeIssuer()

    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True  # head and body are two writes, and the second would wait 40 ms

        def do_GET(self) -> None:
            status, document = issuer.answer(self.path)
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer.url = f"http://127.0.0.1:{server.server_port}"
    with serving(server):
        yield issuer
