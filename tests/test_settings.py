"""What a caller may write, what it comes to, and that anything else is an error at once."""

from __future__ import annotations

import importlib.util
import socket
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import TCPConnectable, TypedAttributeProvider

from anysmtp._attempts import Retry
from anysmtp._clock import Timeouts, timeouts_of
from anysmtp._connect import Link, local_hostname
from anysmtp._settings import Limits, Options, Settings, settle
from anysmtp._urls import from_url
from anysmtp.sasl import Login, Plain, from_password

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
SECRET = "tanstaaf"
PIN = "sha256:" + "0a" * 32
ME = {"username": "tim", "password": SECRET}
CONTROLS = [*map(chr, range(32)), "\x7f"]


class AsyncObserver:
    async def __call__(self, event: object) -> None:
        raise AssertionError("nobody awaits it")


def settled(hostname: Any = "h.example", port: Any = None, /, **options: Any) -> Settings:
    return settle(hostname, port, Options(**options))  # type: ignore[typeddict-item]


def of_url(url: str) -> Settings:
    return settle(*from_url(url))


def test_the_defaults() -> None:
    assert settled() == Settings(
        endpoint=settled("h.example", 25).endpoint,
        is_lmtp=False,
        tls="auto",
        tls_context=None,
        pins=frozenset(),
        mechanisms=(),
        allow_plaintext_auth=False,
        local_hostname=None,
        timeouts=Timeouts(),
        require_all=False,
        add_missing_headers=True,
        pipelining="auto",
        chunking="auto",
        signers=(),
        limits=Limits(),
        retry=None,
        observer=None,
    )


@pytest.mark.parametrize(
    ("options", "port"),
    [
        ({}, 25),
        ({"tls": "off"}, 25),
        ({"tls": "opportunistic"}, 25),
        ({"tls": "implicit"}, 465),
        ({"tls": "starttls"}, 587),
        (ME, 587),
        ({"auth": Plain("a", "b")}, 587),
        ({**ME, "tls": "implicit"}, 465),
        ({**ME, "tls": "off"}, 25),
    ],
)
def test_the_port_follows_from_tls_and_credentials(options: dict[str, Any], port: int) -> None:
    assert settled(**options).endpoint.port == port


@pytest.mark.parametrize(
    ("tls", "port", "settled_tls"),
    [
        ("auto", 465, "implicit"),
        ("auto", 587, "auto"),
        ("auto", 1, "auto"),
        ("starttls", 465, "starttls"),
        ("off", 465, "off"),
        ("implicit", 25, "implicit"),
    ],
)
def test_port_465_is_implicit_tls(tls: str, port: int, settled_tls: str) -> None:
    assert settled("h.example", port, tls=tls).tls == settled_tls


@pytest.mark.parametrize(
    ("option", "value", "attribute", "settled_value"),
    [
        ("tls_context", CONTEXT, "tls_context", CONTEXT),
        ("auth", Plain("a", "b"), "mechanisms", (Plain("a", "b"),)),
        ("auth", [Login("a", "b"), Plain("a", "b")], None, (Login("a", "b"), Plain("a", "b"))),
        ("allow_plaintext_auth", True, "allow_plaintext_auth", True),
        ("local_hostname", "me.example", "local_hostname", "me.example"),
        ("local_hostname", "[IPv6:::1]", "local_hostname", "[IPv6:::1]"),
        ("timeout", 5, "timeouts", timeouts_of(5)),
        ("timeout", None, "timeouts", timeouts_of(None)),
        ("timeout", Timeouts.RFC5321, "timeouts", Timeouts.RFC5321),
        ("require_all", True, "require_all", True),
        ("require_all", None, "require_all", False),
        ("add_missing_headers", False, "add_missing_headers", False),
        ("pipelining", "auto", "pipelining", "auto"),
        ("pipelining", "eager", "pipelining", "eager"),
        ("pipelining", "off", "pipelining", "off"),
        ("limits", Limits(max_connections=9), "limits", Limits(max_connections=9)),
        ("limits", None, "limits", Limits()),
        ("retry", Retry(2), "retry", Retry(2)),
        ("retry", None, "retry", None),
        ("fingerprint", None, "pins", set[str]()),
        ("fingerprint", "SHA256:" + "AB:" * 31 + "Cd", "pins", {"sha256:" + "ab" * 31 + "cd"}),
        ("fingerprint", [PIN, PIN.upper()], "pins", {PIN}),
        ("observer", print, "observer", print),
        ("observer", None, "observer", None),
    ],
)
def test_an_option_is_what_it_comes_to(
    option: str, value: object, attribute: str | None, settled_value: object
) -> None:
    assert getattr(settled(**{option: value}), attribute or "mechanisms") == settled_value


def test_a_password_is_for_the_mechanisms_that_take_one() -> None:
    assert settled(**ME).mechanisms == from_password("tim", SECRET)


@pytest.mark.parametrize(
    ("source", "settled_source"),
    [
        (None, None),
        ("192.0.2.1", ("192.0.2.1", None)),
        (("192.0.2.1", 0), ("192.0.2.1", None)),
        (("::1", 2525), ("::1", 2525)),
    ],
)
def test_a_source_address_is_a_host_and_perhaps_a_port(
    source: object, settled_source: object
) -> None:
    assert settled(source_address=source).endpoint.source_address == settled_source


@pytest.mark.parametrize("connectable", [Path("/run/x"), TCPConnectable("h", 25)])
def test_a_connectable_is_a_path_or_connects(connectable: object) -> None:
    endpoint = settled("h.example", connectable=connectable).endpoint
    assert endpoint.connectable is connectable
    assert endpoint.hostname == "h.example"


@pytest.mark.parametrize(
    ("hostname", "settled_hostname"),
    [
        ("localhost", "localhost"),
        ("mail_1.example.", "mail_1.example."),
        ("bücher.example", "bücher.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_a_hostname_is_a_name_or_an_address(hostname: str, settled_hostname: str) -> None:
    assert settled(hostname).endpoint.hostname == settled_hostname


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ([""], {}, ValueError, "not a host name"),
        (["a b"], {}, ValueError, "not a host name"),
        (["a..b"], {}, ValueError, "not a host name"),
        (["h.example:25"], {}, ValueError, "the port is an argument of its own"),
        (["[h.example"], {}, ValueError, "not a host name"),
        (["smtp://h.example"], {}, ValueError, r"not a URL: from_url\(\) takes one"),
        (["user@h.example"], {}, ValueError, "not a host name"),
        ([b"h"], {}, TypeError, "hostname is a str, not bytes"),
        ([None], {}, TypeError, "hostname is a str, not NoneType"),
        (["h", 0], {}, ValueError, "port is from 1 to 65535, not 0"),
        (["h", 65536], {}, ValueError, "port is from 1 to 65535, not 65536"),
        (["h", "25"], {}, TypeError, "port is an int, not '25'"),
        (["h", 587.0], {}, TypeError, r"port is an int, not 587\.0"),
        (["h", True], {}, TypeError, "port is an int, not True"),
        ([], {"dns": True}, TypeError, "no option of this name: dns; there are tls, tls_context"),
        ([], {"use_tls": True}, TypeError, r"use_tls \(instead: tls='implicit'\); there are tls"),
        ([], {"max_connections": 5}, TypeError, r"instead: limits=Limits\(max_connections="),
        ([], {"tls": True}, ValueError, "tls is one of 'auto', 'implicit', 'starttls'"),
        ([], {"tls": "TLS"}, ValueError, "tls is one of"),
        ([], {"tls_context": "x"}, TypeError, "tls_context is an SSLContext, not str"),
        ([], {"tls": "off", "tls_context": CONTEXT}, ValueError, "of no use with tls='off'"),
        ([], {"tls": "opportunistic", **ME}, ValueError, "no login with it"),
        ([], {"username": "tim"}, ValueError, "password is missing: username and password come"),
        ([], {"password": SECRET}, ValueError, "username is missing: username and password come"),
        ([], {"username": 1, "password": SECRET}, TypeError, "username is a str, not int"),
        ([], {"username": "tim", "password": b"x"}, TypeError, "password is a str, not bytes"),
        ([], {**ME, "auth": Plain("a", "b")}, ValueError, "auth stands instead of username"),
        ([], {"auth": "PLAIN"}, TypeError, "auth is a mechanism of"),
        ([], {"auth": [None]}, TypeError, "auth is a mechanism of"),
        ([], {"auth": []}, ValueError, "auth has no mechanism"),
        ([], {"allow_plaintext_auth": "no"}, TypeError, "allow_plaintext_auth is a bool, not str"),
        ([], {"require_all": 1}, TypeError, "require_all is a bool, not int"),
        ([], {"add_missing_headers": ""}, TypeError, "add_missing_headers is a bool, not str"),
        ([], {"local_hostname": ""}, ValueError, "a domain or an address literal, not ''"),
        ([], {"local_hostname": "x_y"}, ValueError, "a domain or an address literal"),
        ([], {"local_hostname": "::1"}, ValueError, "a domain or an address literal"),
        ([], {"local_hostname": 5}, ValueError, "a domain or an address literal"),
        (["h" * 255], {}, ValueError, "not a host name"),
        ([], {"fingerprint": PIN[:-1]}, ValueError, "not sha256: and 64 hexadecimal digits: 'sha"),
        ([], {"fingerprint": PIN[7:]}, ValueError, "not sha256: and 64"),
        ([], {"fingerprint": []}, ValueError, "fingerprint has none"),
        ([], {"fingerprint": [b"x"]}, TypeError, "a fingerprint is a str, not bytes"),
        ([], {"fingerprint": PIN, "tls": "off"}, ValueError, "demands TLS, tls='off' does not"),
        ([], {"fingerprint": PIN, "tls": "opportunistic"}, ValueError, "demands TLS, tls='opport"),
        ([], {"proxy": 5}, TypeError, "the URL of a proxy is a str, not int"),
        ([], {"proxy": "p.example"}, ValueError, "not the URL of a proxy"),
        (["::1%lo"], {"proxy": "http://p"}, ValueError, "http:// cannot carry the address ::1%lo"),
        (["::1"], {"proxy": "socks4a://p"}, ValueError, "socks4a:// cannot carry the address ::1"),
        (
            [],
            {"proxy": "http://p", "connectable": Path("/run/x")},
            ValueError,
            "a proxy is reached over TCP",
        ),
        ([], {"proxy_tls_context": CONTEXT}, ValueError, "a proxy whose URL begins with https://"),
        (
            [],
            {"proxy": "http://p", "proxy_tls_context": CONTEXT},
            ValueError,
            "a proxy whose URL begins with https://",
        ),
        ([], {"proxy_tls_context": 5}, TypeError, "proxy_tls_context is an SSLContext, not int"),
        ([], {"source_address": ""}, ValueError, "not a host name"),
        ([], {"source_address": ("", 25)}, ValueError, "not a host name"),
        ([], {"source_address": ("::1", -1)}, ValueError, "port is from 1 to 65535"),
        ([], {"source_address": ("::1", "25")}, TypeError, "port is an int"),
        ([], {"source_address": ("::1", 25, 0)}, TypeError, "a host, or a host and a port"),
        ([], {"source_address": 5}, TypeError, "a host, or a host and a port"),
        ([], {"connectable": "/run/x"}, TypeError, "or a ByteStreamConnectable, not '/run/x'"),
        (
            [],
            {"connectable": Path("/x"), "source_address": "::1"},
            ValueError,
            "for TCP, not for a connectable",
        ),
        ([], {"timeout": 0}, ValueError, "timeout must be above 0 seconds"),
        ([], {"timeout": "5"}, TypeError, "timeout is a number of seconds"),
        ([], {"pipelining": "on"}, ValueError, "pipelining is one of 'auto', 'eager', 'off'"),
        ([], {"pipelining": True}, ValueError, "pipelining is one of 'auto', 'eager', 'off'"),
        ([], {"limits": 5}, TypeError, "limits is a Limits, not int"),
        ([], {"retry": 3}, TypeError, "retry is a Retry, not int"),
        ([], {"retry": True}, TypeError, "retry is a Retry, not bool"),
        ([], {"observer": "print"}, TypeError, "observer is a function, not 'print'"),
        ([], {"observer": anyio.sleep}, TypeError, "observer is a function, not an async one"),
        ([], {"observer": AsyncObserver()}, TypeError, "observer is a function, not an async one"),
        ([], {"observer": partial(anyio.sleep)}, TypeError, "not an async one"),
    ],
)
def test_what_is_wrong_is_an_error_at_once(
    arguments: list[Any], options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text) as caught:
        settled(*arguments, **options)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_connections": 1, "max_messages_per_connection": 1},
        {"keepalive_expiry": None},
        {"keepalive_expiry": 0.5},
        {"rate": (30, 60)},
        {"rate": (1, 0.1)},
    ],
)
def test_limits_are_what_they_are_given(limits: dict[str, Any]) -> None:
    made = Limits(**limits)
    assert {name: getattr(made, name) for name in limits} == limits
    assert made == Limits(**limits)


def test_the_limits_that_hold_if_none_are_given() -> None:
    limits = Limits()
    assert (limits.max_connections, limits.max_messages_per_connection) == (3, None)
    assert (limits.keepalive_expiry, limits.rate) == (60, None)


@pytest.mark.parametrize(
    ("limits", "error", "text"),
    [
        ({"max_connections": 0}, ValueError, "max_connections is 1 or more, not 0"),
        ({"max_connections": "3"}, TypeError, "max_connections is a number, not '3'"),
        ({"max_connections": True}, TypeError, "max_connections is a number, not True"),
        ({"max_connections": None}, TypeError, "max_connections is a number, not None"),
        ({"max_messages_per_connection": 0}, ValueError, "max_messages_per_connection is 1 or"),
        ({"max_messages_per_connection": 1.5}, TypeError, "max_messages_per_connection is a num"),
        ({"keepalive_expiry": 0}, ValueError, "keepalive_expiry is above 0 seconds and fin"),
        ({"keepalive_expiry": float("inf")}, ValueError, r"and finite \(None: never\), not inf"),
        ({"keepalive_expiry": float("nan")}, ValueError, "keepalive_expiry is above 0 seconds"),
        ({"keepalive_expiry": "60"}, TypeError, "keepalive_expiry is a number of seconds"),
        ({"keepalive_expiry": True}, TypeError, "keepalive_expiry is a number of seconds"),
        ({"rate": 30}, TypeError, r"rate is \(messages, seconds\), not 30"),
        ({"rate": (30,)}, TypeError, r"rate is \(messages, seconds\)"),
        ({"rate": [30, 60]}, TypeError, r"rate is \(messages, seconds\)"),
        ({"rate": (0, 60)}, ValueError, "the first of rate is 1 or more, not 0"),
        ({"rate": (0.5, 60)}, TypeError, r"the first of rate is a number, not 0\.5"),
        ({"rate": (30, 0)}, ValueError, "the second of rate is above 0 seconds and finite, n"),
        ({"rate": (30, "60")}, TypeError, "the second of rate is a number of seconds"),
    ],
)
def test_limits_that_make_no_sense_are_an_error(
    limits: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Limits(**limits)


def with_a_control(control: str) -> list[str]:
    return [f"{SECRET}{control}", f"{control}{SECRET}", f"a{control}b", f"::1%{control}"]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("option", ["username", "password", "local_hostname", "source_address"])
def test_no_control_character_gets_into_an_option(option: str, control: str) -> None:
    for text in with_a_control(control):
        options = {**(ME if option in ME else {}), option: text}
        with pytest.raises(ValueError, match=r"control character in|not a host|not '") as caught:
            settled(**options)
        assert control not in str(caught.value)
        assert SECRET not in str(caught.value) or option not in ME


@pytest.mark.parametrize("control", CONTROLS)
def test_no_control_character_gets_into_a_hostname_or_a_url(control: str) -> None:
    for text in with_a_control(control):
        with pytest.raises(ValueError, match=r"control character in|not a host") as caught:
            settled(text)
        assert control not in str(caught.value)
        with pytest.raises(ValueError, match="it has a control character") as caught:
            from_url(f"smtp://tim:{text}@h.example")
        assert SECRET not in str(caught.value)


def test_settings_do_not_show_secrets() -> None:
    proxy = f"socks5://tim:{SECRET}@p.example"
    assert SECRET not in repr(settled(**ME, proxy=proxy))


@pytest.mark.parametrize(
    ("scheme", "library"),
    [("socks5", "socksio"), ("socks5h", "socksio"), ("socks4a", "socksio"), ("http", "h11")],
)
def test_a_proxy_without_its_library_is_an_error_at_once(
    scheme: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = dict[str, object]()
    monkeypatch.setattr(importlib.util, "find_spec", installed.get)
    with pytest.raises(ImportError, match=rf"needs {library}: pip install 'anysmtp\[proxy\]'"):
        settled(proxy=f"{scheme}://tim@p.example")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("me.example", "me.example"),
        ("me", None),
        ("localhost", None),
        ("localhost.localdomain", None),
        ("Localhost.LocalDomain", None),
        ("x_y.example", None),
        ("bücher.example", None),
        ("me.example\n", None),
        ("", None),
    ],
)
def test_the_hosts_own_name_is_used_if_it_is_one(
    name: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    no_socket: Any = TypedAttributeProvider()
    assert local_hostname(Link(no_socket, "h:25", "h")) == (expected or "[127.0.0.1]")
