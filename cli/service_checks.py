"""What `headrace doctor` asks the service: does it answer, do release, clock and token fit."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final

from headrace.bus.errors import NetworkUnusable
from headrace.bus.light_httpx import httpx
from headrace.cli.findings import Finding, ok, problem, skipped, warning
from headrace.sdk.client import Client
from headrace.sdk.errors import ClientError
from headrace.sdk.http import PROTOCOL
from headrace.sdk.profile import Profile

_TIMEOUT_S: Final = 10.0
_OFF_S: Final = 5.0
"""A clock that is off by less is no news: the `Date` of an answer is in whole seconds."""
_FAR_OFF_S: Final = 300.0
"""Certificates and tokens of others are refused from about here on."""


@dataclass
class ServiceCheck:
    """Looks at the service of a profile; `answers` tells afterwards whether anything more can be asked."""

    profile: Profile
    answers: bool = False
    accepted: bool = False
    """Whether the token was."""
    _health: dict[str, Any] = field(default_factory=dict)

    def findings(self) -> Iterator[Finding]:
        """How the service is, seen from here."""
        url = self.profile.url
        try:
            answer, took_s, off_s = _get(self.profile)
        except (httpx.HTTPError, NetworkUnusable) as error:
            yield problem(
                "service",
                f"{url} does not answer: {error or type(error).__name__}",
                "check the address, whether the service runs, the firewall, and HTTPS_PROXY and NO_PROXY",
            )
            return
        yield self._answer(answer, took_s)
        if off_s is not None:
            yield clock_finding(off_s)
        if not self.answers:
            return
        yield self._release()
        yield self._token()

    def _answer(self, answer: httpx.Response, took_s: float) -> Finding:
        try:
            document = answer.json()
        except ValueError:
            document = None
        if not isinstance(document, dict) or not ("protocol" in document or "code" in document):
            said = f"{self.profile.url} answers {answer.status_code}, but not as a Headrace service"
            return problem("service", said, "check the address; something else, or a proxy, answers there")
        if not answer.is_success:
            return problem(
                "service",
                f"{self.profile.url} cannot work now: {document.get('detail')}",
                "look at its log; if it lasts, whether NATS runs",
            )
        self.answers, self._health = True, document
        return ok("service", f"{self.profile.url} answers in {took_s * 1000:.0f} ms")

    def _release(self) -> Finding:
        theirs, ours = str(self._health.get("service_version")), version("headrace")
        if self._health["protocol"] != PROTOCOL:
            self.answers = False
            said = (
                f"the service ({theirs}) speaks protocol {self._health['protocol']}, this release ({ours}) {PROTOCOL}"
            )
            return problem("release", said, f"run `pip install headrace=={theirs}`")
        if theirs != ours:
            said = f"the service is release {theirs}, this is {ours}; they understand each other"
            return warning("release", said, "when it is convenient, install the same on both sides")
        return ok("release", f"both sides are release {ours}")

    def _token(self) -> Finding:
        if not self.answers:
            return skipped("token", "the releases do not fit")
        try:
            with Client(profile=self.profile, timeout_s=_TIMEOUT_S) as client:
                principal = client.whoami()["principal"]
        except ClientError as error:
            return problem("token", str(error), f"run `headrace login --url {self.profile.url}`")
        self.accepted = True
        return ok("token", f"it is that of {principal}")


def clock_finding(off_s: float) -> Finding:
    """Whether this machine's clock is that of the service; `off_s` is how far it is ahead."""
    ahead = "ahead of" if off_s > 0 else "behind"
    if abs(off_s) <= _OFF_S:
        return ok("clock", "it is that of the service, to a few seconds")
    said = f"this machine is {abs(off_s):,.0f} s {ahead} the service"
    advice = "let NTP set the clocks (`timedatectl set-ntp true`)"
    if abs(off_s) < _FAR_OFF_S:
        return warning("clock", f"{said}: tasks run, but times in lists and logs do not fit", advice)
    return problem("clock", f"{said}: certificates and tokens may be refused", advice)


def _get(profile: Profile) -> tuple[httpx.Response, float, float | None]:
    """The answer, how long it took, and how far our clock is ahead of the other's, where it says its time."""
    with httpx.Client(timeout=_TIMEOUT_S, **profile.network.http_options(profile.url)) as client:
        asked_at, began = time.time(), time.perf_counter()
        answer = client.get(f"{profile.url}/readyz")
        took_s = time.perf_counter() - began
    try:
        # In whole seconds, and told somewhere between question and answer.
        told = email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp() + 0.5
    except (KeyError, ValueError):
        return answer, took_s, None
    return answer, took_s, asked_at + took_s / 2 - told
