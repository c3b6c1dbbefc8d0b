"""Sinks: where may be sent, what is sent, what an answer means, and how fast."""

from __future__ import annotations

import datetime
import email.utils
import ipaddress
import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus.errors import SignatureInvalid
from headrace.bus.eventing.sinks.addresses import AddressPolicy
from headrace.bus.eventing.sinks.answers import Answer
from headrace.bus.eventing.sinks.models import Sink, concealed, revealed
from headrace.bus.eventing.sinks.pace import MOST_FAILURES, Pace
from headrace.bus.eventing.sinks.urls import checked_headers, checked_url, origin_of
from headrace.bus.eventing.sinks.verdicts import MOST_RETRY_AFTER_S, SinkVerdict, of_answer, retry_after_s
from headrace.bus.keys import KeyRing

PUBLIC = ("93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34", "64:ff9b::5db8:d822")
PRIVATE = (
    "127.0.0.1",
    "10.1.2.3",
    "172.31.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "168.63.129.16",
    "192.0.0.192",
    "0.0.0.0",  # noqa: S104 - no address to listen on
    "255.255.255.255",
    "224.0.0.1",
    "240.0.0.1",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::5db8:d822",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2001:0:5db8:d822::1",
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
)


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_internet_is_reached_by_tls_alone(address: str) -> None:
    policy = AddressPolicy()
    assert policy.problem("sink.example", ipaddress.ip_address(address), secure=True) is None
    assert "without TLS" in str(policy.problem("sink.example", ipaddress.ip_address(address), secure=False))


@pytest.mark.parametrize("address", PRIVATE)
def test_no_other_address_is_reached_however_it_is_written(address: str) -> None:
    problem = AddressPolicy().problem("sink.example", ipaddress.ip_address(address), secure=True)
    assert "--sink-allow" in str(problem)


def test_an_administrator_allows_networks_and_hosts() -> None:
    policy = AddressPolicy.of(["10.0.0.0/8", "[fd00::1]", "Sink.Internal.", "192.168.1.7"])

    def allowed(host: str, address: str) -> bool:
        return policy.problem(host, ipaddress.ip_address(address), secure=False) is None

    assert allowed("x", "10.9.9.9")
    assert allowed("x", "::ffff:10.9.9.9")
    assert allowed("x", "fd00::1")
    assert allowed("sink.internal", "127.0.0.1")
    assert not allowed("other.internal", "127.0.0.1")
    assert not allowed("x", "192.168.1.8")
    assert AddressPolicy.of(policy.texts()) == policy


@pytest.mark.parametrize("entry", ["", "http://x", "10.0.0.0/33", "*.example.org", "a b", "256.1.1.1", "host:80"])
def test_what_is_no_host_and_no_network_is_told(entry: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        AddressPolicy.of([entry])


@given(st.ip_addresses())
def test_no_address_of_a_private_network_is_taken_for_a_public_one(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    reached = AddressPolicy().problem("x", address, secure=True) is None
    if reached and address.version == 4:
        assert address.is_global
        assert not address.is_multicast


@pytest.mark.parametrize(
    "url", ["https://example.org", "http://[::1]:8080/a?b=c", "https://xn--bcher-kva.example/%C3%A4"]
)
def test_addresses_that_can_be_sent_to_are_taken_as_they_are(url: str) -> None:
    assert checked_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "//example.org",
        "file:///etc/passwd",
        "https://",
        "https://:80/",
        "https://a@example.org/",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://example.org/#f",
        "https://example.org/a b",
        "https://example.org\\@evil.example/",
        "https://bücher.example/",
        "https://example.org/\r\nX: y",
        "https://example.org/" + "a" * 2048,
    ],
)
def test_other_addresses_are_not(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        checked_url(url)


def test_secrets_stay_with_scheme_host_and_port() -> None:
    assert origin_of("https://Example.org/a") == origin_of("https://example.org:443/b?c")
    for other in ("http://example.org/", "https://example.org:8443/", "https://evil.example/"):
        assert origin_of(other) != origin_of("https://example.org/")


@pytest.mark.parametrize(
    "name", ["Host", "content-length", "CE-id", "Transfer-Encoding", "a b", "", "x:y", "Proxy-Foo"]
)
def test_headers_of_our_own_are_not_set_by_others(name: str) -> None:
    with pytest.raises(ValueError, match="header"):
        checked_headers({name: "v"}, frozenset())


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (200, ""),
        (204, ""),
        (301, "SinkRedirected"),
        (304, "SinkRedirected"),
        (400, "SinkRefused"),
        (401, "SinkRefused"),
        (404, "SinkRefused"),
        (408, "SinkUnavailable"),
        (410, "SinkGone"),
        (415, "SinkRefused"),
        (425, "SinkUnavailable"),
        (429, "SinkUnavailable"),
        (500, "SinkUnavailable"),
        (503, "SinkUnavailable"),
        (599, "SinkUnavailable"),
    ],
)
def test_what_an_answer_means(status: int, code: str) -> None:
    verdict = of_answer(Answer(status=status, headers={"retry-after": "7"}), now=0.0)
    assert (verdict.code, verdict.status, verdict.succeeded) == (code, status, not code)
    assert verdict.permanent == (code not in ("", "SinkUnavailable"))
    assert verdict.retry_after_s == (7.0 if code == "SinkUnavailable" else 0.0)


def test_retry_after_is_seconds_or_a_date_and_nothing_else() -> None:
    now = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
    later = email.utils.format_datetime(now + datetime.timedelta(seconds=90), usegmt=True)
    assert retry_after_s(later, now=now.timestamp()) == 90.0
    assert retry_after_s("0", now=0.0) == 0.0
    assert retry_after_s("99999999999999", now=0.0) == MOST_RETRY_AFTER_S
    for text in ("", "-1", "soon", "1.5", "²", email.utils.format_datetime(now - datetime.timedelta(days=1))):
        assert retry_after_s(text, now=now.timestamp()) == 0.0


@given(st.text())
def test_no_retry_after_breaks_anything(text: str) -> None:
    assert 0.0 <= retry_after_s(text, now=1e9) <= MOST_RETRY_AFTER_S


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_requests_keep_the_rate_and_wait_as_long_as_they_were_asked_to() -> None:
    clock = Clock()
    pace = Pace(4, 60, clock=clock)
    assert [pace.wait_s() for _ in range(3)] == [0.0, 1.0, 2.0]
    clock.now += 10
    assert pace.wait_s() == 0.0
    pace.told(SinkVerdict(code="SinkUnavailable", status=429, retry_after_s=30.0))
    pace.told(SinkVerdict(status=200))  # was under way at the time
    assert pace.wait_s() == 30.0
    assert not pace.is_down


def test_a_sink_that_only_fails_is_asked_less_and_less_until_it_answers() -> None:
    clock = Clock()
    pace = Pace(4, None, clock=clock)
    waits = []
    for _ in range(MOST_FAILURES + 8):
        pace.told(SinkVerdict(code="SinkTimeout"))
        waits.append(pace.wait_s())
    assert waits[: MOST_FAILURES - 1] == [0.0] * (MOST_FAILURES - 1)
    assert waits[MOST_FAILURES - 1 :] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert pace.is_down
    pace.told(SinkVerdict(code="SinkRefused", status=404))
    assert not pace.is_down
    assert pace.wait_s() == 0.0


def test_secrets_are_read_by_their_own_subscription_alone() -> None:
    keys, mine, other = KeyRing(bytes(32)), uuid.UUID(int=1), uuid.UUID(int=2)
    sink = Sink(
        url="https://example.org",
        secret=concealed(keys, mine, "secret", "s"),
        token=concealed(keys, mine, "token", "t"),
        headers=concealed(keys, mine, "headers", json.dumps({"X-A": "b"})),
    )
    found = revealed(keys, mine, sink)
    assert (found.secret, found.token, found.headers) == ("s", "t", {"X-A": "b"})
    assert repr(found) == "Secrets(…)"
    with pytest.raises(SignatureInvalid):
        revealed(keys, other, sink)
    with pytest.raises(SignatureInvalid):
        # Nor is one taken for another.
        revealed(keys, mine, Sink(url=sink.url, token=sink.secret))
