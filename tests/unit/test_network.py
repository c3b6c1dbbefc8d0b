"""Which way leads out of a machine, by what its environment says."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from headrace.bus.errors import NetworkUnusable
from headrace.bus.network import DIRECT, Network, Way

PROXY = "http://ada:s3cret@proxy.example:3128"


def test_the_usual_variables_are_read_in_small_letters_first(tmp_path: Path) -> None:
    network = Network.of_environment(
        {
            "HTTPS_PROXY": "http://loud:1",
            "https_proxy": "http://quiet:1",
            "ALL_PROXY": "",
            "NO_PROXY": "a.example, .b.example 10.0.0.0/8",
            "HEADRACE_CA_FILE": str(tmp_path / "ca.pem"),
            "HEADRACE_NATS_URL": "nats://a:1,wss://b",
        }
    )

    assert network == Network(
        https_proxy="http://quiet:1",
        no_proxy=("a.example", ".b.example", "10.0.0.0/8"),
        ca_file=tmp_path / "ca.pem",
        nats_urls=("nats://a:1", "wss://b"),
    )
    assert Network.of_environment({}) == DIRECT


def test_it_survives_a_file() -> None:
    network = Network(all_proxy=PROXY, no_proxy=("a",), ca_file=Path("/ca.pem"), nats_urls=("wss://b",))

    assert Network.of_document(network.document()) == network
    assert Network.of_document({}) == DIRECT


def test_a_password_is_never_shown() -> None:
    network = Network(http_proxy=PROXY, https_proxy=PROXY, all_proxy=PROXY)

    shown = [repr(network), *(text for way in network.ways(["nats://a", "wss://a"]) for text in (repr(way), str(way)))]
    assert not any("s3cret" in text for text in shown)
    assert "wss://a (through http://proxy.example:3128)" in shown


@pytest.mark.parametrize("password", ["s3cret/", "s3cret#1", "s3cret?", "[s3cret", "1/s3cret", "s3cret:x/"])
def test_a_password_that_takes_a_proxys_url_apart_is_not_shown_either(password: str) -> None:
    network = Network(https_proxy=f"http://ada:{password}@proxy.example:3128")

    with pytest.raises(NetworkUnusable, match="write each '/' as %2F") as refused:
        network.proxy_for("https://x")
    assert "s3cret" not in str(refused.value)
    assert "1" not in str(refused.value)


def test_each_kind_of_url_has_its_proxy() -> None:
    network = Network(http_proxy="http://h:1", https_proxy="s:2", all_proxy="http://a:3")

    assert [way.proxy for way in network.ways(["ws://x", "wss://x", "nats://x", "tls://x", "x:4222"])] == [
        "http://h:1",
        "http://s:2",
        "http://a:3",
        "http://a:3",
        "http://a:3",
    ]
    assert [network.proxy_for(url) for url in ("http://x", "https://x")] == ["http://h:1", "http://s:2"]
    assert Network(all_proxy="http://a:3").proxy_for("https://x") == "http://a:3"


def test_nats_goes_directly_before_it_tries_the_proxy_for_https() -> None:
    ways = Network(https_proxy="http://s:2").ways(["nats://x"])

    assert ways == [Way(url="nats://x"), Way(url="nats://x", proxy="http://s:2")]
    assert [way.is_short for way in ways] == [True, False]


@pytest.mark.parametrize(
    ("entry", "without", "with_proxy"),
    [
        ("*", ["nats://any.example"], []),
        ("b.example", ["nats://b.example", "wss://a.b.example:1"], ["nats://ab.example"]),
        (".B.example", ["nats://a.b.example"], ["nats://c.example"]),
        ("*.b.example", ["nats://a.b.example"], ["nats://c.example"]),
        ("b.example:443", ["wss://b.example", "nats://b.example:443"], ["nats://b.example:4222"]),
        ("10.0.0.0/8", ["nats://10.1.2.3:4222"], ["nats://11.1.2.3", "nats://b.example"]),
        ("10.0.0.7", ["nats://10.0.0.7"], ["nats://10.0.0.70"]),
        ("fd00::/8", ["nats://[fd00::1]:4222"], ["nats://[fe00::1]:4222"]),
        ("[fd00::1]:4222", ["nats://[fd00::1]:4222"], ["nats://[fd00::1]:4223"]),
        ("", ["nats://localhost:1", "ws://127.0.0.1", "nats://[::1]"], ["nats://b.example"]),
    ],
)
def test_some_hosts_are_reached_without_a_proxy(entry: str, without: list[str], with_proxy: list[str]) -> None:
    network = Network(all_proxy=PROXY, no_proxy=(entry,))

    assert [way.url for way in network.ways(without + with_proxy) if way.proxy is None] == without


@pytest.mark.parametrize("proxy", ["socks5://me:s3cret@proxy:1080", "http://"])
def test_a_proxy_of_another_kind_is_refused_only_where_it_would_be_used(proxy: str) -> None:
    network = Network(all_proxy=proxy, no_proxy=("b.example",))

    network.ways(["nats://b.example"])
    with pytest.raises(NetworkUnusable, match=r"NO_PROXY=c\.example") as refused:
        network.ways(["nats://c.example"])
    assert "s3cret" not in str(refused.value)


def test_other_urls_take_the_place_of_what_the_service_says() -> None:
    assert Network(nats_urls=("nats://here",)).ways(["wss://there"]) == [Way(url="nats://here")]


def test_certificates_that_cannot_be_read_are_told_in_words(tmp_path: Path) -> None:
    for content, words in ((None, "No such file"), ("nothing of the kind", "not certificates")):
        path = tmp_path / "ca.pem"
        if content is not None:
            path.write_text(content)
        with pytest.raises(NetworkUnusable, match=words):
            Network(ca_file=path).ssl_context()


def test_without_tls_nobody_is_trusted_and_with_it_names_are_checked() -> None:
    plain, secure = DIRECT.http_options("http://a")["verify"], DIRECT.http_options("https://a")["verify"]

    assert not plain.get_ca_certs()
    assert all(context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname for context in (plain, secure))
