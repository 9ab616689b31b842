"""URLs of servers and proxies: what they say, and that what is wrong with one does not show it."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from anysmtp._settings import Settings, settle
from anysmtp._urls import from_url, proxy_from_url

SECRET = "tanstaaf"


def of_url(url: str) -> Settings:
    return settle(*from_url(url))


@pytest.mark.parametrize(
    ("url", "endpoint", "tls"),
    [
        ("smtp://h.example", "h.example:25", "auto"),
        ("smtp://h.example/", "h.example:25", "auto"),
        ("SMTP://H.example:2525", "h.example:2525", "auto"),
        ("smtp://h.example:465", "h.example:465", "implicit"),
        ("smtps://h.example", "h.example:465", "implicit"),
        ("smtp+starttls://h.example", "h.example:587", "starttls"),
        ("smtp://tim:x@h.example", "h.example:587", "auto"),
        ("smtp://127.0.0.1", "127.0.0.1:25", "auto"),
        ("smtp://[::1]:2525", "[::1]:2525", "auto"),
        ("smtp://[fe80::1%25eth0]", "[fe80::1%eth0]:25", "auto"),
        ("smtp://b%C3%BCcher.example", "bücher.example:25", "auto"),
        ("smtp+unix:///run/a%20b.sock", "/run/a b.sock", "auto"),
        ("smtp+unix://h.example:465/run/x", "/run/x", "implicit"),
    ],
)
def test_a_url_says_where_and_how(url: str, endpoint: str, tls: str) -> None:
    settings = of_url(url)
    assert str(settings.endpoint) == endpoint
    assert settings.tls == tls


def test_a_unix_socket_has_a_path_and_a_name() -> None:
    endpoint = of_url("smtp+unix:///run/x").endpoint
    assert (endpoint.connectable, endpoint.hostname) == (PurePosixPath("/run/x"), "localhost")
    assert of_url("smtp+unix://h.example/run/x").endpoint.hostname == "h.example"


@pytest.mark.parametrize(
    ("userinfo", "options"),
    [
        ("tim:secret@", {"username": "tim", "password": "secret"}),
        ("tim%40x:p%3Aa%2Fs%25@", {"username": "tim@x", "password": "p:a/s%"}),
        ("j%C3%B6rg:p%C3%A4ss@", {"username": "jörg", "password": "päss"}),
        ("tim:@", {"username": "tim", "password": ""}),
        ("tim@", {"username": "tim"}),
        ("", {}),
    ],
)
def test_the_user_is_percent_decoded(userinfo: str, options: dict[str, str]) -> None:
    assert from_url(f"smtp://{userinfo}h.example") == ("h.example", None, options)


@pytest.mark.parametrize(
    ("query", "option", "value"),
    [
        ("local_hostname=me.example", "local_hostname", "me.example"),
        ("timeout=2.5", "timeout", 2.5),
        ("require_all=true", "require_all", True),
        ("require_all=false", "require_all", False),
        ("pipelining=off", "pipelining", "off"),
        ("pipelining=eager", "pipelining", "eager"),
        ("fingerprint=sha256:ab", "fingerprint", "sha256:ab"),
        ("proxy=socks5%3A%2F%2Fann%3Ax%2540y%40p.example", "proxy", "socks5://ann:x%40y@p.example"),
    ],
)
def test_the_query_has_options(query: str, option: str, value: object) -> None:
    hostname, port, options = from_url(f"smtp://h.example:25?{query}")
    assert (hostname, port) == ("h.example", 25)
    assert options == {option: value}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "the scheme is one of smtp, smtp"),
        ("h.example", "the scheme is one of"),
        ("http://h.example", "the scheme is one of"),
        ("smtp:h.example", "it has a host"),
        ("smtp://", "it has a host"),
        ("smtp://tim:tanstaaf@", "it has a host"),
        ("smtp://h.example/tanstaaf", "no path"),
        ("smtp://h.example#tanstaaf", "no fragment"),
        ("smtp://tim:tan/staaf@h.example", "no path .*in a password / is %2F"),
        ("smtp://tim:tan#staaf@h.example", "no fragment"),
        ("smtp://tim:tan?staaf@h.example", "it cannot be parsed"),
        ("smtp://tim:tanstaaf@h.example:99999", "it cannot be parsed"),
        ("smtp://tim:tanstaaf@h.example:x", "it cannot be parsed"),
        ("smtp://tim:tanstaaf@[::1", "it cannot be parsed"),
        ("smtp://tim:tanstaaf@h\u2100example", "it cannot be parsed"),
        ("smtp://tim%3Atanstaaf%40h.example", "it cannot be parsed"),
        ("smtp://h.example%0A", "it cannot be parsed"),
        ("smtp://h.example\n", "it has a control character"),
        ("smtp://h.example?password=tanstaaf", "a key that is none of local_hostname, timeout"),
        ("smtp://h.example?tanstaaf", "it cannot be parsed"),
        ("smtp://h.example?timeout=tanstaaf", "timeout in the query is a number of seconds"),
        ("smtp://h.example?require_all=1", "require_all in the query is true or false"),
        ("smtp://h.example?timeout=1&timeout=2", "the query has timeout twice"),
        ("smtp+unix://h.example", "the path of a unix socket starts with /"),
        ("smtp+unix:run/x", "the path of a unix socket starts with /"),
        ("smtp+unix:///run/x#1", "there is no fragment"),
    ],
)
def test_what_is_no_url_of_a_server_is_an_error_that_does_not_show_it(
    url: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=f"^not the URL of a server: .*{reason}") as caught:
        from_url(url)
    assert SECRET not in str(caught.value)
    assert "h.example" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("smtp://tim@h.example", "username and password come together"),
        ("smtp://h.example:0", "port is from 1 to 65535"),
        ("smtp://h.example?timeout=-1", "above 0"),
        ("smtp://h.example?timeout=nan", "above 0"),
        ("smtp://h.example?local_hostname=", "local_hostname is a domain"),
        ("smtp://h.example?pipelining=on", "pipelining is one of"),
        ("smtp://tim:tanstaaf%0A@h.example", "control character in password"),
    ],
)
def test_what_a_url_says_is_checked_like_any_option(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        of_url(url)
    assert url not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_url_is_text() -> None:
    with pytest.raises(TypeError):
        from_url(b"smtp://h.example")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("url", "shown", "user"),
    [
        ("socks5://p.example", "socks5://p.example:1080", (None, "")),
        ("SOCKS5H://tim:x@P.example:9", "socks5h://p.example:9", ("tim", "x")),
        ("socks4a://tim@192.0.2.1/", "socks4a://192.0.2.1:1080", ("tim", "")),
        ("http://tim%40x:p%3Aa%2F@[::1]", "http://[::1]:80", ("tim@x", "p:a/")),
        ("https://:x@p.example", "https://p.example:443", ("", "x")),
        ("socks5://tim:@p.example", "socks5://p.example:1080", ("tim", "")),
    ],
)
def test_a_url_says_where_a_proxy_is(url: str, shown: str, user: tuple[str | None, str]) -> None:
    proxy = proxy_from_url(url)
    assert str(proxy) == shown
    assert (proxy.username, proxy.password) == user
    assert (proxy.encryption is not None) == url.startswith("https")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "the scheme is one of socks5, socks5h, socks4a, http, https"),
        ("p.example:1080", "the scheme is one of"),
        ("socks4://p.example", "the scheme is one of"),
        ("socks5://", "it has a host"),
        ("socks5://tim:tanstaaf@", "it has a host"),
        ("socks5://p.example/tanstaaf", "no path"),
        ("socks5://p.example?tanstaaf", "no query"),
        ("socks5://tim:tan#staaf@p.example", "# is %23"),
        ("socks5://tim:tan/staaf@p.example", "it has a host"),
        ("socks5://tim:tanstaaf@p.example:x", "it cannot be parsed"),
        ("socks5://tim:tanstaaf@p.example:99999", "it cannot be parsed"),
        ("socks5://tim:tanstaaf@p.example:0", "it cannot be parsed"),
        ("socks5://tim:tanstaaf@p example", "it cannot be parsed"),
        ("socks5://tim:tanstaaf\n@p.example", "it has a control character"),
        ("http://tim:tanstaaf%0A@p.example", "control character in the user name or password"),
        ("socks5://:tanstaaf@p.example", "have 1 to 255 octets"),
        (f"socks5://tim:{SECRET * 32}@p.example", "have 1 to 255 octets"),
        (f"socks5://{'x' * 256}@p.example", "have 1 to 255 octets"),
        ("socks4a://tim:tanstaaf@p.example", "a user name, but no password"),
        ("http://tim%3A:tanstaaf@p.example", "a user name cannot have a colon"),
    ],
)
def test_what_is_no_url_of_a_proxy_is_an_error_that_does_not_show_it(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^not the URL of a proxy: .*{reason}") as caught:
        proxy_from_url(url)
    assert SECRET not in str(caught.value)
    assert "p.example" not in str(caught.value)
    assert caught.value.__suppress_context__
