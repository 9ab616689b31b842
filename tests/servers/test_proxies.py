"""Through microsocks, dante and tinyproxy to a scripted server."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Literal
from urllib.parse import quote

import pytest

from anysmtp import SMTP, SMTPProxyError
from anysmtp.testing import ScriptedServer
from support.clients import deliver
from support.proxies import FORBIDDEN, PASSWORD, USER, RealProxy, why_not
from support.tls import Certificates

pytestmark = pytest.mark.anyio

WITH_LOGIN = f"{USER}:{quote(PASSWORD)}@"
# Who says what: the proxy, a scheme, a user that it takes.
WAYS = [
    ("microsocks", "socks5", WITH_LOGIN),
    ("microsocks", "socks5h", WITH_LOGIN),
    ("dante", "socks5", ""),
    ("dante", "socks5h", WITH_LOGIN),
    ("dante", "socks4a", "ann@"),
    ("tinyproxy", "http", WITH_LOGIN),
]
every_way = pytest.mark.parametrize(("name", "scheme", "user"), WAYS)


def require_proxies() -> None:
    """Skip the test where there can be no proxies; fail if ``ANYSMTP_REQUIRE_PROXIES`` is 1."""
    reason = why_not()
    if reason and os.environ.get("ANYSMTP_REQUIRE_PROXIES") == "1":
        pytest.fail(f"the proxies are required, but {reason}")
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def proxies() -> Iterator[dict[str, RealProxy]]:
    """All three, by name."""
    require_proxies()
    with ExitStack() as stack:
        names = ("microsocks", "dante", "tinyproxy")
        yield {name: stack.enter_context(RealProxy(name)) for name in names}


def url(proxies: dict[str, RealProxy], name: str, scheme: str, user: str) -> str:
    return f"{scheme}://{user}127.0.0.1:{proxies[name].port}"


@pytest.mark.parametrize(
    ("name", "scheme", "user", "host"),
    [
        *((*way, "127.0.0.1") for way in WAYS),
        # Dante takes the name of a SOCKS 4A request for the address 0.0.0.255.
        *((*way, "localhost") for way in WAYS if way[1] != "socks4a"),
    ],
)
async def test_mail_goes_through(
    name: str,
    scheme: str,
    user: str,
    host: str,
    proxies: dict[str, RealProxy],
) -> None:
    proxy = url(proxies, name, scheme, user)
    async with ScriptedServer() as server:
        port = await server.listen()
        async with SMTP(host, port, tls="off", proxy=proxy) as smtp:
            receipt = await deliver(smtp)
            await deliver(smtp)
    assert receipt.server == f"{host}:{port}"
    assert len(server.messages) == 2
    assert len(server.connections) == 1


@every_way
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_tls_and_login_go_through(
    name: str,
    scheme: str,
    user: str,
    tls: Literal["starttls", "implicit"],
    proxies: dict[str, RealProxy],
    certificates: Certificates,
) -> None:
    server = ScriptedServer(
        starttls=certificates.server if tls == "starttls" else None,
        implicit_tls=certificates.server if tls == "implicit" else None,
        users={"ann": "secret"},
    )
    async with server:
        smtp = SMTP(
            *("127.0.0.1", await server.listen()),
            tls=tls,
            tls_context=certificates.client,
            proxy=url(proxies, name, scheme, user),
            username="ann",
            password="secret",
        )
        async with smtp:
            await deliver(smtp)
    assert [message.tls for message in server.messages] == [True]


@pytest.mark.parametrize(
    ("name", "scheme", "user", "reason"),
    [
        ("microsocks", "socks5h", f"{USER}:wrong@", "refused the user name or password"),
        ("microsocks", "socks5h", "", "wants a login"),
        ("tinyproxy", "http", f"{USER}:wrong@", "refused the user name or password"),
        ("tinyproxy", "http", "", "wants a login"),
    ],
)
async def test_a_wrong_login_is_the_hop_where_it_ends(
    name: str,
    scheme: str,
    user: str,
    reason: str,
    proxies: dict[str, RealProxy],
) -> None:
    async with SMTP("127.0.0.1", proxy=url(proxies, name, scheme, user)) as smtp:
        with pytest.raises(SMTPProxyError, match=reason) as caught:
            await deliver(smtp)
    assert caught.value.hop == "login"
    assert not caught.value.may_retry


@every_way
async def test_nothing_listening_is_the_last_hop(
    name: str, scheme: str, user: str, proxies: dict[str, RealProxy]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        proxy = url(proxies, name, scheme, user)
        async with SMTP("127.0.0.1", port, tls="off", proxy=proxy) as smtp:
            with pytest.raises(SMTPProxyError, match="cannot connect to the mail") as caught:
                await smtp.connect()
    assert caught.value.hop == "target"


@pytest.mark.parametrize("scheme", ["socks5", "socks4a"])
async def test_a_rule_of_the_proxys_is_the_last_hop(
    scheme: str, proxies: dict[str, RealProxy]
) -> None:
    proxy = url(proxies, "dante", scheme, "")
    async with SMTP(FORBIDDEN, 25, tls="off", proxy=proxy) as smtp:
        with pytest.raises(SMTPProxyError, match=r"mail server: (not allowed|error 91)") as caught:
            await smtp.connect()
    assert caught.value.hop == "target"
