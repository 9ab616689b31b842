"""A wrong password is tried once, however many tasks wait for the login: accounts get locked."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from anysmtp import SMTP, Delivery, Limits, Retry, SMTPAuthenticationError, SMTPException, sasl
from anysmtp.testing import DROP, Act, Answer, ScriptedServer
from support.bench import message
from support.clients import SENDER, deliver, on_memory
from support.leaks import no_leaks
from test_limits import in_virtual_time, stream_all, taking

pytestmark = pytest.mark.anyio

TO = "b@x.test"
WRONG = "535 5.7.8 Wrong"
LATER = "454 4.7.0 Temporary authentication failure"


@pytest.fixture
def anyio_backend(anyio_backend: object) -> object:
    return in_virtual_time(anyio_backend)


class Gate:
    """A server with a login that takes a second, and a client that has the password.

    ``verdicts`` are for the first logins, None where they work; after them all do.
    """

    def __init__(self, verdicts: Iterable[Answer | None] = (), **options: Any) -> None:
        self.server = ScriptedServer(
            users={"ann": "secret"}, require_auth=True, script=self._answer
        )
        self.logins = 0
        self.most = 0
        """How many logins were under way at once."""
        self._verdicts = iter(verdicts)
        settings: dict[str, Any] = {
            "username": "ann",
            "password": "secret",
            "allow_plaintext_auth": True,
            "limits": Limits(max_connections=10),
            **options,
        }
        self.client = on_memory(self.server, **settings)

    def _answer(self, line: str) -> Answer | None:
        if not line.startswith("AUTH"):
            return taking(1)(line)
        self.logins += 1
        records = self.server.connections
        self.most = max(self.most, sum(r.end is None and r.verbs[-1:] == ["AUTH"] for r in records))
        verdict = next(self._verdicts, None)
        return verdict if isinstance(verdict, Act) else Act(verdict, late=1)

    async def __aenter__(self) -> Gate:
        await self.server.__aenter__()
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        try:
            if exc_info[0] is None:
                await self.client.aclose()
        finally:
            await self.server.__aexit__(*exc_info)


Use = Callable[[SMTP, "Delivery[int]"], Coroutine[Any, Any, object]]


async def send(smtp: SMTP, delivery: Delivery[int]) -> None:
    await smtp.sendmail(SENDER, TO, message(str(delivery.key)), delivery=delivery)


async def outcomes(smtp: SMTP, tasks: int, use: Use = send) -> list[SMTPException | None]:
    """What became of so many calls at once."""
    errors: list[SMTPException | None] = []

    async def one(number: int) -> None:
        delivery: Delivery[int] = Delivery(key=number)
        error: SMTPException | None = None
        try:
            await use(smtp, delivery)
        except SMTPException as caught:
            error = caught
        if use is send:
            assert delivery.exception() is error
            assert error is None or error.delivery is delivery
            assert delivery.outcome == ("accepted" if error is None else "not_sent")
        errors.append(error)

    async with anyio.create_task_group() as group:
        for number in range(tasks):
            group.start_soon(one, number)
    return errors


async def connect(smtp: SMTP, delivery: Delivery[int]) -> None:
    await smtp.connect()


async def borrow(smtp: SMTP, delivery: Delivery[int]) -> None:
    async with smtp.connection() as conn:
        await conn.noop()


async def mixed(smtp: SMTP, delivery: Delivery[int]) -> None:
    use: Use = (connect, borrow, send)[delivery.key % 3]
    await use(smtp, delivery)


# A login that fails


@pytest.mark.parametrize("verdict", [WRONG, LATER])
@pytest.mark.parametrize("use", [send, connect, borrow, mixed])
@pytest.mark.parametrize("count", [1, 3, 50])
async def test_a_wrong_password_is_tried_once_for_fifty_tasks(
    count: int, use: Use, verdict: str
) -> None:
    limits = Limits(max_connections=count)
    async with no_leaks(), Gate([verdict] * 10, limits=limits) as gate:
        errors = await outcomes(gate.client, 50, use)
        assert {type(error) for error in errors} == {SMTPAuthenticationError}
        assert all(verdict in str(error) for error in errors)
        assert len(set(map(id, errors))) == 50
        assert gate.logins == 1
        assert len(gate.server.connections) == 1
        assert " idle 0 waiting 0" in repr(gate.client)


async def test_each_has_its_own_error_with_its_own_delivery() -> None:
    async with Gate([WRONG]) as gate:
        errors = await outcomes(gate.client, 50)
    deliveries = {error.delivery for error in errors if error is not None}
    assert sorted(one.key for one in deliveries if one is not None) == list(range(50))
    for error in errors:
        assert error is not None
        assert not error.may_retry
        assert error.connection_closed
        assert error.command == "AUTH"
        assert "secret" not in str(error)


async def test_the_error_of_who_sends_nothing_has_nobody_s_delivery() -> None:
    """Those who wait learn of a login that failed after the message that wanted it has ended."""
    errors: dict[Use, SMTPException] = {}

    async with Gate([WRONG]) as gate, anyio.create_task_group() as group:

        async def one(use: Use) -> None:
            with pytest.raises(SMTPAuthenticationError) as caught:
                await use(gate.client, Delivery(key=0))
            errors[use] = caught.value

        for use in (send, connect, borrow):
            group.start_soon(one, use)
            await anyio.wait_all_tasks_blocked()
    assert errors[send].delivery is not None
    assert [errors[use].delivery for use in (connect, borrow)] == [None, None]


async def test_a_later_call_tries_once_again() -> None:
    async with Gate([WRONG] * 3) as gate:
        for number in range(1, 4):
            errors = await outcomes(gate.client, 50)
            assert None not in errors
            assert gate.logins == number
        assert await outcomes(gate.client, 50) == [None] * 50


async def test_those_who_come_while_it_is_tried_do_not_try_it_again() -> None:
    errors: list[SMTPException | None] = []
    async with Gate([WRONG] * 10) as gate:

        async def some() -> None:
            errors.extend(await outcomes(gate.client, 5))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(some)
                await anyio.sleep(0.1)
        assert gate.logins == 1
    assert len(errors) == 25
    assert None not in errors


async def test_with_a_retry_a_wrong_password_is_tried_once_all_the_same() -> None:
    async with Gate([WRONG] * 10, retry=Retry(5)) as gate:
        assert None not in await outcomes(gate.client, 50)
        assert gate.logins == 1


async def test_a_stream_of_messages_ends_with_one_login() -> None:
    async with Gate([WRONG] * 10) as gate:
        with pytest.raises(SMTPAuthenticationError, match="535"):
            await stream_all(gate.client, range(200))
        assert gate.logins == 1
        assert not gate.server.received


async def test_streams_and_tasks_together_are_one_login() -> None:
    ended = 0

    async def stream() -> None:
        nonlocal ended
        with pytest.raises(SMTPAuthenticationError):
            await stream_all(gate.client, range(20))
        ended += 1

    async with Gate([WRONG] * 10) as gate:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(stream)
            group.start_soon(outcomes, gate.client, 20)
        assert gate.logins == 1
    assert ended == 5


# A login that works


@pytest.mark.parametrize("use", [send, connect, borrow, mixed])
async def test_one_login_is_tried_and_once_it_has_worked_several_at_a_time(use: Use) -> None:
    async with no_leaks(), Gate() as gate:
        start = anyio.current_time()
        connecting: list[int] = []

        async def look() -> None:
            await anyio.sleep(0.9)
            connecting.append(len(gate.server.connections))

        async with anyio.create_task_group() as group:
            group.start_soon(look)
            assert await outcomes(gate.client, 50, use) == [None] * 50
        assert connecting == [1]
        assert anyio.current_time() - start < 20
        if use is not connect:
            assert gate.most > 1
        assert gate.logins == len(gate.server.connections) <= 10
    assert sum(login.accepted for r in gate.server.connections for login in r.logins) == gate.logins


async def test_where_no_login_is_needed_nobody_waits_for_one() -> None:
    server = ScriptedServer(script=lambda line: Act(late=1) if line.startswith("EHLO") else None)
    async with (
        server,
        on_memory(server, limits=Limits(max_connections=10)) as smtp,
        anyio.create_task_group() as group,
    ):
        for _ in range(10):
            group.start_soon(deliver, smtp)
        await anyio.sleep(0.5)
        assert len(server.connections) == 5


# Somewhere in between


async def test_one_who_goes_away_while_he_logs_in_lets_the_next_one_try() -> None:
    async with no_leaks(), Gate() as gate:
        async with anyio.create_task_group() as group:
            async with anyio.create_task_group() as leaving:
                leaving.start_soon(send, gate.client, Delivery(key=0))
                await anyio.sleep(0.5)
                group.start_soon(outcomes, gate.client, 20)
                await anyio.sleep(0.1)
                assert gate.logins == 1
                leaving.cancel_scope.cancel()
            await anyio.sleep(0.5)
            assert gate.logins == 2
        assert len(gate.server.messages) == 20


async def test_one_who_is_told_that_it_failed_may_have_gone_away() -> None:
    async with no_leaks(), Gate([WRONG] * 10) as gate, anyio.create_task_group() as group:
        group.start_soon(outcomes, gate.client, 5)
        await anyio.sleep(0.1)
        with anyio.move_on_after(0.5):
            await deliver(gate.client)
        await anyio.sleep(2)
        assert gate.logins == 1


async def test_a_connection_that_is_lost_is_no_login_that_failed() -> None:
    """Whoever is next tries it himself."""
    async with no_leaks(), Gate([DROP, DROP]) as gate:
        errors = await outcomes(gate.client, 20)
        assert len([error for error in errors if error is not None]) == 2
        assert gate.most >= 1
        assert not any(isinstance(error, SMTPAuthenticationError) for error in errors)


async def test_logins_that_fail_later_cost_only_the_messages_that_wanted_them() -> None:
    async with no_leaks(), Gate([None, *[WRONG] * 50]) as gate:
        assert await outcomes(gate.client, 1) == [None]
        errors = await outcomes(gate.client, 50)
        # Five were being opened when the first of them failed.
        assert 2 <= gate.logins <= 1 + 5
        failed = [error for error in errors if error is not None]
        assert all(isinstance(error, SMTPAuthenticationError) for error in failed)
        # The connection that there was served the others.
        assert len(gate.server.messages) == 1 + 50 - len(failed)
        before = gate.logins
        await outcomes(gate.client, 50)
        assert gate.logins <= before + 1


async def test_a_login_that_fails_later_does_not_spoil_the_connections_that_are_open() -> None:
    async with no_leaks(), Gate([None, None, WRONG]) as gate:
        async with gate.client.connection(), gate.client.connection() as conn:
            with pytest.raises(SMTPAuthenticationError):
                await deliver(gate.client)
            await deliver(conn)
        await deliver(gate.client)
        assert gate.logins == 3


async def test_the_error_of_a_failed_login_is_not_kept_for_those_who_come_later() -> None:
    """Who waits for a connection, and not for that login, is not told of it."""
    async with no_leaks(), Gate([None, WRONG], limits=Limits(max_connections=2)) as gate:
        async with gate.client.connection():
            with pytest.raises(SMTPAuthenticationError):
                await deliver(gate.client)
            await deliver(gate.client)
        assert gate.logins == 3


async def test_an_exception_of_a_token_function_is_only_its_caller_s() -> None:
    calls = 0

    async def token() -> str:
        nonlocal calls
        calls += 1
        await anyio.sleep(1)
        if calls <= 2:
            raise ZeroDivisionError
        return "t"

    def login(_: object) -> Any:
        yield b""
        return "ann"

    server = ScriptedServer(mechanisms={"XOAUTH2": login}, require_auth=True)
    auth = sasl.XOAuth2("ann", token)
    raised = 0

    async def one() -> None:
        nonlocal raised
        try:
            await deliver(smtp)
        except ZeroDivisionError:
            raised += 1

    async with (
        no_leaks(),
        server,
        on_memory(server, auth=auth, allow_plaintext_auth=True, limits=Limits()) as smtp,
        anyio.create_task_group() as group,
    ):
        for _ in range(10):
            group.start_soon(one)
    assert raised == 2
    assert len(server.messages) == 8


async def test_leaving_while_everybody_waits_for_the_login_ends_them_all() -> None:
    async with no_leaks(), Gate([Act(b"", then="stall")]) as gate:
        ended: list[SMTPException | None] = []

        async def some() -> None:
            ended.extend(await outcomes(gate.client, 20))

        async with anyio.create_task_group() as group:
            group.start_soon(some)
            await anyio.sleep(1)
            with suppress(ZeroDivisionError):
                await gate.client.__aexit__(ZeroDivisionError, ZeroDivisionError(), None)
        assert len(ended) == 20
        assert all("the client was closed" in str(error) for error in ended)
        assert gate.logins == 1
