"""Which service to talk to, with which token, and how this machine gets there."""

from __future__ import annotations

import json
import logging
import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from headrace.bus.installation.private_files import write_private
from headrace.bus.network import DIRECT, Network
from headrace.sdk.errors import NotConfigured

logger = logging.getLogger(__name__)

_ADVICE = (
    "run `headrace up` on this machine, or `headrace login --url URL` for a service elsewhere, "
    "or set HEADRACE_URL and HEADRACE_TOKEN"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A service and a token for it. The token is not shown by `repr`."""

    url: str
    token: str = field(repr=False)
    network: Network = DIRECT

    @classmethod
    def find(
        cls,
        url: str | None = None,
        token: str | None = None,
        *,
        ca_file: Path | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Profile:
        """The profile to use: the arguments, else HEADRACE_URL and HEADRACE_TOKEN, else the profile file.

        Proxies are those of the environment; `ca_file` goes before HEADRACE_CA_FILE, and that before the profile's.

        URL and token belong together: one of a pair alone is an error, because a token must never reach a service that
        it was not meant for. Raises `NotConfigured`, which says where was looked and what to do.
        """
        network = Network.of_environment(environ)
        if ca_file is not None:
            network = replace(network, ca_file=ca_file.expanduser().absolute())
        if url is not None or token is not None:
            return cls._pair(url, token, "the argument url", "the argument token", network)
        url, token = environ.get("HEADRACE_URL"), environ.get("HEADRACE_TOKEN")
        if url or token:
            return cls._pair(url, token, "HEADRACE_URL", "HEADRACE_TOKEN", network)
        return cls._read(profile_path(environ), network)

    @classmethod
    def read(cls, path: Path, *, environ: Mapping[str, str] = os.environ) -> Profile:
        """The profile in a file. Raises `NotConfigured`."""
        return cls._read(path, Network.of_environment(environ))

    @classmethod
    def _read(cls, path: Path, network: Network) -> Profile:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise NotConfigured(
                "no service is configured: HEADRACE_URL and HEADRACE_TOKEN are not set "
                f"and there is no {path}; {_ADVICE}"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise NotConfigured(f"the profile {path} cannot be read: {error}; {_ADVICE}") from error
        _warn_if_others_may_read(path)
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise NotConfigured(f"the profile {path} is not JSON: {error}; {_ADVICE}") from error
        if not isinstance(document, dict):
            raise NotConfigured(f'the profile {path} is not an object like {{"url", "token"}}; {_ADVICE}')
        url, token = document.get("url"), document.get("token")
        return cls._pair(url, token, f"url in {path}", f"token in {path}", _with_kept(network, document))

    def write(self, path: Path) -> None:
        """Store the profile where only its owner may read it; whoever reads meanwhile sees the old or the new one."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        document: dict[str, object] = {"url": self.url, "token": self.token}
        if self.network.ca_file is not None:
            document["ca_file"] = str(self.network.ca_file)
        if self.network.nats_urls:
            document["nats_urls"] = list(self.network.nats_urls)
        write_private(path, json.dumps(document, indent=2) + "\n")

    @classmethod
    def _pair(cls, url: object, token: object, url_name: str, token_name: str, network: Network) -> Profile:
        for value, name in ((url, url_name), (token, token_name)):
            if not value:
                raise NotConfigured(f"{name} is missing: {url_name} and {token_name} belong together; {_ADVICE}")
            if not isinstance(value, str):
                raise NotConfigured(f"{name} is not a text; {_ADVICE}")
        return cls(url=service_url(str(url), url_name), token=_header_safe(str(token), token_name), network=network)


def network_of(path: Path, *, environ: Mapping[str, str] = os.environ) -> Network:
    """How this machine gets out, by the environment and the profile in a file, if there is one."""
    network = Network.of_environment(environ)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return network
    return _with_kept(network, document) if isinstance(document, dict) else network


def _with_kept(network: Network, document: Mapping[str, object]) -> Network:
    """What a profile's file has besides URL and token; the environment goes before it."""
    ca_file, nats_urls = document.get("ca_file"), document.get("nats_urls")
    if network.ca_file is None and isinstance(ca_file, str):
        network = replace(network, ca_file=Path(ca_file))
    if not network.nats_urls and isinstance(nats_urls, list):
        network = replace(network, nats_urls=tuple(map(str, nats_urls)))
    return network


def profile_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the profile file is: in HEADRACE_HOME, by default ~/.headrace."""
    home = environ.get("HEADRACE_HOME")
    return (Path(home) if home else Path.home() / ".headrace") / "profile.json"


def service_url(url: str, name: str = "the URL") -> str:
    """A service's URL without a slash at its end. Raises `NotConfigured` when it is not one."""
    cleaned = url.strip().rstrip("/")
    try:
        parts = urlsplit(cleaned)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or True)
    except ValueError:
        usable = False
    if not usable:
        raise NotConfigured(f"{name} is {url!r}, which is not an http:// or https:// URL")
    return cleaned


def _header_safe(token: str, name: str) -> str:
    cleaned = token.strip()
    if not (cleaned.isascii() and cleaned.isprintable()) or " " in cleaned or not cleaned:
        raise NotConfigured(f"{name} does not look like a token: it must be one word of ASCII characters")
    return cleaned


def _warn_if_others_may_read(path: Path) -> None:
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        logger.warning(
            "The profile %s can be read by other users of this machine, and it holds your token; run `chmod 600 %s`.",
            path,
            shlex.quote(str(path)),
            extra={"action": "profile_readable"},
        )
