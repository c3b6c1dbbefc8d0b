"""Which service to talk to, and with which token."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from headrace.bus.private_files import write_private
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

    @classmethod
    def find(
        cls, url: str | None = None, token: str | None = None, *, environ: Mapping[str, str] = os.environ
    ) -> Profile:
        """The profile to use: the arguments, else HEADRACE_URL and HEADRACE_TOKEN, else the profile file.

        URL and token belong together: one of a pair alone is an error, because a token must never reach a service that
        it was not meant for. Raises `NotConfigured`, which says where was looked and what to do.
        """
        if url is not None or token is not None:
            return cls._pair(url, token, "the argument url", "the argument token")
        url, token = environ.get("HEADRACE_URL"), environ.get("HEADRACE_TOKEN")
        if url or token:
            return cls._pair(url, token, "HEADRACE_URL", "HEADRACE_TOKEN")
        return cls.read(profile_path(environ))

    @classmethod
    def read(cls, path: Path) -> Profile:
        """The profile in a file. Raises `NotConfigured`."""
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
        return cls._pair(document.get("url"), document.get("token"), f"url in {path}", f"token in {path}")

    def write(self, path: Path) -> None:
        """Store the profile where only its owner may read it; whoever reads meanwhile sees the old or the new one."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        document = {"url": self.url, "token": self.token}
        write_private(path, json.dumps(document, indent=2) + "\n")

    @classmethod
    def _pair(cls, url: object, token: object, url_name: str, token_name: str) -> Profile:
        for value, name in ((url, url_name), (token, token_name)):
            if not value:
                raise NotConfigured(f"{name} is missing: {url_name} and {token_name} belong together; {_ADVICE}")
            if not isinstance(value, str):
                raise NotConfigured(f"{name} is not a text; {_ADVICE}")
        return cls(url=service_url(str(url), url_name), token=_header_safe(str(token), token_name))


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
            path,
            extra={"action": "profile_readable"},
        )
