"""`Retry`: what was refused for now is sent again, after a pause, to those who do not have it.

In virtual time, on both backends.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import anyio
import pytest

from anysmtp import (
    SMTP,
    Delivery,
    Envelope,
    Limits,
    Mail,
    Receipt,
    Retry,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPMessageTooLarge,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)
from anysmtp.testing import DROP, RESET, STALL, Act, Answer, ScriptedServer
from support.bench import RECIPIENTS, message, subject_of
from support.clients import RAW, SENDER, Script, deliver, email, on_memory
from support.leaks import no_leaks
from test_limits import in_virtual_time

pytestmark = pytest.mark.anyio

B, C = RECIPIENTS
THREE = Retry(3)
LATER = "451 4.3.0 Try again later"
NO = "550 5.7.1 No"


@pytest.fixture
def anyio_backend(anyio_backend: object) -> object:
    return in_virtual_time(anyio_backend)


@pytest.fixture
def whole_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left out of the pauses by chance."""

    def uniform(least: float, most: float) -> float:
        return most

    monkeypatch.setattr(random, "uniform", uniform)


class Watched:
    """A server that knows when each MAIL came, and a client that tries again."""

    def __init__(
        self,
        script: Script,
        retry: Retry | None = THREE,
        *,
        keywords: Any = None,
        **options: Any,
    ) -> None:
        settings = {} if keywords is None else {"keywords": keywords}
        self.server = ScriptedServer(script=script, **settings)
        self.client = on_memory(self.server, retry=retry, **options)

    async def __aenter__(self) -> Watched:
        await self.server.__aenter__()
        self._start = anyio.current_time()
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        try:
            if exc_info[0] is None:
                await self.client.aclose()
        finally:
            await self.server.__aexit__(*exc_info)

    @property
    def seconds(self) -> float:
        return anyio.current_time() - self._start

    @property
    def tries(self) -> int:
        return sum(record.verbs.count("MAIL") for record in self.server.connections)

    @property
    def ids(self) -> set[bytes]:
        """The Message-IDs of all that came."""
        return {
            one.raw.partition(b"Message-ID: ")[2].partition(b"\r\n")[0]
            for one in self.server.received
        }


# When


async def test_nothing_is_sent_again_unless_it_is_asked_for() -> None:
    delivery: Delivery[None] = Delivery()
    async with Watched({"MAIL": [LATER]}, None) as watched:
        with pytest.raises(SMTPSenderRefused, match=r"451 4\.3\.0"):
            await deliver(watched.client, delivery=delivery)
        assert watched.tries == 1
        assert watched.seconds < 0.1
    assert delivery.may_retry


@pytest.mark.parametrize(
    ("retry", "pauses"),
    [
        (Retry(3), [1, 4]),
        (Retry(5), [1, 4, 16, 64]),
        (Retry(4, base=10, factor=2), [10, 20, 40]),
        (Retry(4, base=5, factor=1), [5, 5, 5]),
        (Retry(6, base=100, max_delay=250), [100, 250, 250, 250, 250]),
        (Retry(3, base=0), [0, 0]),
        (Retry(1), []),
    ],
    ids=str,
)
async def test_the_pauses_grow_up_to_a_limit(
    retry: Retry, pauses: Sequence[float], whole_pauses: None
) -> None:
    times: list[float] = []

    def answer(line: str) -> str | None:
        if line.startswith("MAIL"):
            times.append(anyio.current_time())
            return LATER
        return None

    async with ScriptedServer(script=answer) as server, on_memory(server, retry=retry) as smtp:
        with pytest.raises(SMTPSenderRefused):
            await deliver(smtp)
    found = [later - earlier for earlier, later in pairwise(times)]
    assert found == pytest.approx(pauses, abs=0.01)


async def test_clients_that_are_refused_together_do_not_come_back_together() -> None:
    times: list[float] = []

    def answer(line: str) -> str | None:
        if line.startswith("MAIL"):
            times.append(anyio.current_time())
            return LATER
        return None

    async def one() -> None:
        with pytest.raises(SMTPSenderRefused):
            await deliver(smtp)

    start = anyio.current_time()
    async with (
        ScriptedServer(script=answer) as server,
        on_memory(server, retry=Retry(2, base=100)) as smtp,
        anyio.create_task_group() as group,
    ):
        for _ in range(20):
            group.start_soon(one)
    again = [time - start for time in times[20:]]
    assert len(again) == 20
    assert all(50 <= time <= 100.01 for time in again)
    assert max(again) - min(again) > 10


# What


@pytest.mark.parametrize(
    "script",
    [
        {"MAIL": [LATER, LATER]},
        {"RCPT": [LATER] * 4},
        {"DATA": [LATER, LATER]},
        {".": [LATER, LATER]},
        {"MAIL": [LATER], ".": [LATER]},
    ],
    ids=str,
)
@pytest.mark.parametrize("pipelining", ["auto", "off"])
async def test_it_is_sent_until_it_is_taken(
    script: dict[str, list[Answer]], pipelining: str
) -> None:
    delivery: Delivery[None] = Delivery()
    async with no_leaks(), Watched(dict(script), pipelining=pipelining) as watched:
        receipt = await watched.client.send_message(
            email(To=", ".join(RECIPIENTS)), delivery=delivery
        )
        assert list(receipt.accepted) == list(RECIPIENTS)
        assert not receipt.refused
        assert delivery.result() is receipt
        assert delivery.outcome == "accepted"
        assert watched.tries == 3
        assert 0.5 + 2 <= watched.seconds <= 1 + 4 + 0.1
        assert len(watched.ids) == 1
        assert len(watched.server.connections) == 1
    assert len(watched.server.messages) == 1


async def test_only_those_who_were_refused_for_now_are_asked_again() -> None:
    script: Script = {
        f"RCPT TO:<{C}>": ["450 4.2.1 Later", "452 4.2.2 Full"],
        "RCPT TO:<d@x.test>": "550 5.1.1 No",
    }
    delivery: Delivery[None] = Delivery()
    async with Watched(script) as watched:
        receipt = await watched.client.send_message(
            email(To=f"{B}, {C}, d@x.test"), delivery=delivery
        )
        assert [one.recipients for one in watched.server.messages] == [[B], [C]]
        assert len(watched.ids) == 1
        assert watched.tries == 3
    assert set(receipt.accepted) == {B, C}
    assert list(receipt.refused) == ["d@x.test"]
    assert len(receipt.replies) == 2
    assert receipt.message_id == delivery.message_id
    assert not delivery.may_retry
    asked = [command for command in watched.server.commands if command.startswith(b"RCPT")]
    assert Counter(asked) == {
        b"RCPT TO:<b@x.test>\r\n": 1,
        b"RCPT TO:<c@x.test>\r\n": 3,
        b"RCPT TO:<d@x.test>\r\n": 1,
    }


async def test_who_is_refused_for_now_to_the_end_is_in_the_receipt() -> None:
    delivery: Delivery[None] = Delivery()
    async with Watched({f"RCPT TO:<{C}>": "450 4.2.1 Later"}) as watched:
        receipt = await deliver(watched.client, delivery=delivery)
        assert watched.tries == 3
        with pytest.raises(SMTPRecipientsRefused):
            receipt.raise_for_refused()
        assert list(receipt.accepted) == [B]
        assert receipt.retry_recipients == delivery.retry_recipients == (C,)
        assert delivery.outcome == "refused"
        assert delivery.may_retry
        watched.server.script.clear()
        again = await deliver(watched.client, delivery=delivery)
        assert set(again.accepted) == {B, C}
    assert [one.recipients for one in watched.server.messages] == [[B], [C]]


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ({"MAIL": NO}, SMTPSenderRefused),
        ({"RCPT": NO}, SMTPRecipientsRefused),
        ({"DATA": NO}, SMTPDataError),
        ({".": NO}, SMTPDataError),
    ],
)
async def test_a_permanent_refusal_is_believed(
    script: dict[str, Answer], error: type[SMTPException]
) -> None:
    async with Watched(dict(script)) as watched:
        with pytest.raises(error):
            await deliver(watched.client)
        assert watched.tries == 1
        assert watched.seconds < 0.1


async def test_it_ends_with_the_first_permanent_refusal() -> None:
    async with Watched({"MAIL": [LATER, NO]}, Retry(9)) as watched:
        with pytest.raises(SMTPSenderRefused, match=r"550 5\.7\.1"):
            await deliver(watched.client)
        assert watched.tries == 2


async def test_after_the_last_try_the_last_error_is_the_caller_s() -> None:
    delivery: Delivery[None] = Delivery()
    async with Watched({"MAIL": [LATER, LATER, "450 4.7.1 Last"]}) as watched:
        with pytest.raises(SMTPSenderRefused, match=r"450 4\.7\.1 Last") as caught:
            await deliver(watched.client, delivery=delivery)
    assert caught.value.delivery is delivery
    assert caught.value.may_retry
    assert delivery.exception() is caught.value
    assert caught.value.__context__ is None


@pytest.mark.parametrize("point", [".", "BDAT"])
async def test_what_is_in_doubt_is_never_sent_again(point: str) -> None:
    delivery: Delivery[None] = Delivery()
    eager = {"keywords": ["PIPELINING", "CHUNKING"], "pipelining": "eager"}
    options: dict[str, Any] = eager if point == "BDAT" else {}
    async with no_leaks(), Watched({point: DROP}, Retry(9), **options) as watched:
        with pytest.raises(SMTPServerDisconnected) as caught:
            await deliver(watched.client, delivery=delivery)
        assert caught.value.in_doubt
        assert watched.tries == 1
        assert watched.seconds < 0.1
    assert len(watched.server.received) == 1
    assert not delivery.may_retry


async def test_where_somebody_is_in_doubt_nobody_is_tried_again() -> None:
    """The others can be: by the caller, who has the Delivery."""
    delivery: Delivery[None] = Delivery()
    script: Script = {f"RCPT TO:<{C}>": "450 4.2.1 Later", ".": DROP}
    async with Watched(script) as watched:
        with pytest.raises(SMTPServerDisconnected):
            await deliver(watched.client, delivery=delivery)
        assert watched.tries == 1
    assert delivery.in_doubt == (B,)
    assert delivery.retry_recipients == (C,)


async def test_a_server_that_hangs_up_before_the_end_is_tried_again() -> None:
    async with no_leaks(), Watched({"RCPT": [DROP, DROP]}) as watched:
        receipt = await deliver(watched.client)
        assert list(receipt.accepted) == list(RECIPIENTS)
        assert watched.tries == 3
        assert len(watched.server.connections) == 3
        assert watched.seconds >= 0.5


async def test_a_server_that_says_goodbye_is_tried_again() -> None:
    goodbye = Act("421 4.3.2 Shutting down", then="close")
    async with no_leaks(), Watched({"MAIL": [goodbye, goodbye]}) as watched:
        await deliver(watched.client)
        assert len(watched.server.connections) == 3


async def test_a_server_that_cannot_be_reached_is_tried_again() -> None:
    async with no_leaks(), Watched({"CONNECT": [RESET, RESET]}) as watched:
        await deliver(watched.client)
        assert len(watched.server.connections) == 1
        assert 0.5 + 2 <= watched.seconds <= 5.1


async def test_a_server_that_is_not_reached_at_all_is_a_connect_error_in_the_end() -> None:
    delivery: Delivery[None] = Delivery()
    async with Watched({"CONNECT": RESET}) as watched:
        with pytest.raises(SMTPConnectError):
            await deliver(watched.client, delivery=delivery)
        assert 0.5 + 2 <= watched.seconds <= 5.1
    assert delivery.outcome == "not_sent"
    assert delivery.may_retry


@pytest.mark.parametrize("point", ["GREETING", "MAIL"])
async def test_a_server_that_is_too_slow_is_tried_again(point: str) -> None:
    async with no_leaks(), Watched({point: [STALL]}, timeout=7) as watched:
        await deliver(watched.client)
        assert 7.5 <= watched.seconds <= 8.1
        assert len(watched.server.connections) == 2


async def test_a_server_that_is_always_too_slow_is_a_timeout_in_the_end() -> None:
    async with no_leaks(), Watched({"MAIL": STALL}, timeout=7) as watched:
        with pytest.raises(SMTPTimeoutError):
            await deliver(watched.client)
        assert 3 * 7 + 0.5 + 2 <= watched.seconds <= 3 * 7 + 5.1


async def test_a_greeting_that_says_no_for_now_is_tried_again_and_one_that_says_no_too() -> None:
    """RFC 5321 section 3.1: 554 says that there is no service here, not that mail is refused."""
    async with Watched({"GREETING": ["421 4.3.2 Not now", "554 5.3.2 Not here"]}) as watched:
        await deliver(watched.client)
        assert len(watched.server.connections) == 3


async def test_a_wrong_password_is_not_tried_again() -> None:
    options = {"username": "ann", "password": "wrong", "allow_plaintext_auth": True}
    server = ScriptedServer(users={"ann": "secret"})
    async with server, on_memory(server, retry=Retry(9), **options) as smtp:
        with pytest.raises(SMTPAuthenticationError):
            await deliver(smtp)
    assert len(server.connections) == 1


async def test_a_login_that_fails_for_now_is_tried_again() -> None:
    options = {"username": "ann", "password": "secret", "allow_plaintext_auth": True}
    server = ScriptedServer(users={"ann": "secret"}, script={"AUTH": ["454 4.7.0 Not now"]})
    async with server, on_memory(server, retry=Retry(3), **options) as smtp:
        await deliver(smtp)
    assert len(server.connections) == 2


@pytest.mark.parametrize(
    ("keywords", "raw", "error"),
    [
        ([], b"\xe9\r\n", SMTPNotSupported),
        (["SIZE 10", "8BITMIME"], b"x" * 50, SMTPMessageTooLarge),
    ],
)
async def test_what_the_server_does_not_offer_is_not_asked_for_again(
    keywords: list[str], raw: bytes, error: type[SMTPException]
) -> None:
    async with Watched({}, keywords=keywords) as watched:
        with pytest.raises(error):
            await deliver(watched.client, raw)
        assert watched.tries == 0
        assert watched.seconds < 0.1


async def test_to_all_or_to_nobody_means_that_all_are_asked_again() -> None:
    async with Watched({f"RCPT TO:<{C}>": ["450 4.2.1 Later"]}, require_all=True) as watched:
        receipt = await deliver(watched.client)
        assert watched.tries == 2
    assert list(receipt.accepted) == list(RECIPIENTS)
    assert [one.recipients for one in watched.server.messages] == [list(RECIPIENTS)]


async def test_to_all_or_to_nobody_is_over_where_one_is_refused_for_good() -> None:
    script: Script = {f"RCPT TO:<{B}>": "450 4.2.1 Later", f"RCPT TO:<{C}>": NO}
    async with Watched(script, require_all=True) as watched:
        with pytest.raises(SMTPRecipientsRefused):
            await deliver(watched.client)
        assert watched.tries == 1
    assert not watched.server.received


async def test_a_message_in_several_transactions_is_tried_again_for_those_who_are_left() -> None:
    script: Script = {"MAIL": ["250 Ok", LATER], f"RCPT TO:<{B}>": ["450 4.2.1 Later"]}
    recipients = [B, C, "d@x.test", "e@x.test"]
    keywords = ["PIPELINING", "LIMITS RCPTMAX=2"]
    delivery: Delivery[None] = Delivery()
    async with Watched(script, keywords=keywords) as watched:
        receipt = await watched.client.sendmail(SENDER, recipients, RAW, delivery=delivery)
        sent = [one.recipients for one in watched.server.messages]
    assert sent == [[C], [B, "d@x.test"], ["e@x.test"]]
    assert set(receipt.accepted) == set(recipients)
    assert not receipt.refused
    assert len(receipt.replies) == 3
    assert delivery.outcome == "accepted"


# Meanwhile


async def test_while_a_message_waits_others_are_sent() -> None:
    async with Watched({"MAIL FROM:<slow@x.test>": [LATER]}, Retry(2, base=100)) as watched:
        async with anyio.create_task_group() as group:
            group.start_soon(watched.client.sendmail, "slow@x.test", B, RAW)
            await anyio.wait_all_tasks_blocked()
            for _ in range(3):
                await deliver(watched.client)
            assert watched.seconds < 50
        assert len(watched.server.messages) == 4
        assert len(watched.server.connections) <= 2


async def test_a_delivery_says_what_it_knows_while_it_waits() -> None:
    delivery: Delivery[None] = Delivery()
    script: Script = {f"RCPT TO:<{C}>": ["450 4.2.1 Later"]}
    async with Watched(script, Retry(2, base=100)) as watched, anyio.create_task_group() as group:

        async def send() -> None:
            await deliver(watched.client, delivery=delivery)

        group.start_soon(send)
        await anyio.sleep(10)
        assert delivery.outcome is None
        assert delivery.phase == "waiting"
        assert list(delivery.accepted) == [B]
        assert delivery.retry_recipients == (C,)
        with pytest.raises(RuntimeError, match="has not ended"):
            await deliver(watched.client, delivery=delivery)
    assert delivery.outcome == "accepted"


async def test_a_send_that_is_cancelled_while_it_waits_can_be_resumed() -> None:
    delivery: Delivery[None] = Delivery()
    script: Script = {f"RCPT TO:<{C}>": ["450 4.2.1 Later"]}
    async with no_leaks(), Watched(script, Retry(2, base=100)) as watched:
        message = email(To=", ".join(RECIPIENTS))
        with anyio.move_on_after(10) as scope:
            await watched.client.send_message(message, delivery=delivery)
        assert scope.cancelled_caught
        assert delivery.phase == "done"
        assert list(delivery.accepted) == [B]
        assert delivery.retry_recipients == (C,)
        assert delivery.may_retry
        receipt = await watched.client.send_message(message, delivery=delivery)
        assert set(receipt.accepted) == {B, C}
        assert [one.recipients for one in watched.server.messages] == [[B], [C]]
        assert len(watched.ids) == 1


async def test_a_client_that_is_left_cleanly_waits_for_those_who_try_again() -> None:
    receipts: list[Receipt] = []

    async def send() -> None:
        receipts.append(await deliver(watched.client))

    async with (
        Watched({"MAIL": [LATER]}, Retry(2, base=100)) as watched,
        anyio.create_task_group() as group,
    ):
        group.start_soon(send)
        await anyio.sleep(1)
        await watched.client.aclose()
        assert watched.seconds >= 50
    assert len(receipts) == 1


async def test_a_client_that_is_aborted_ends_those_who_wait_at_once() -> None:
    errors: list[tuple[float, BaseException]] = []
    delivery: Delivery[None] = Delivery()

    async def send() -> None:
        try:
            await deliver(watched.client, delivery=delivery)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            errors.append((watched.seconds, error))

    async with (
        Watched({"MAIL": [LATER]}, Retry(2, base=100)) as watched,
        anyio.create_task_group() as group,
    ):
        group.start_soon(send)
        await anyio.sleep(1)
        await watched.client.__aexit__(ZeroDivisionError, ZeroDivisionError(), None)
    ((seconds, error),) = errors
    assert isinstance(error, SMTPServerDisconnected)
    assert "the client was closed" in str(error)
    assert error.delivery is delivery
    assert seconds < 2
    assert delivery.may_retry


async def test_each_try_counts_for_the_rate() -> None:
    times: list[float] = []

    def answer(line: str) -> str | None:
        if line.startswith("MAIL"):
            times.append(anyio.current_time())
            return LATER if len(times) <= 3 else None
        return None

    limits = Limits(max_connections=1, rate=(1, 10))
    async with (
        ScriptedServer(script=answer) as server,
        on_memory(server, retry=Retry(4, base=1, factor=1), limits=limits) as smtp,
    ):
        await deliver(smtp)
    assert len(times) == 4
    assert all(b - a >= 10 - 1e-6 for a, b in pairwise(times))


# In a stream of messages


def mails(count: int, recipients: Sequence[str] = RECIPIENTS) -> list[Mail[int]]:
    return [
        Mail(message(str(n)), Envelope(sender=f"{n}@x.test", recipients=recipients), key=n)
        for n in range(count)
    ]


async def stream(smtp: SMTP, count: int, **options: Any) -> list[Delivery[int]]:
    async with smtp.send_many(mails(count), **options) as deliveries:
        return [delivery async for delivery in deliveries]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("count", [1, 3])
async def test_in_a_stream_what_is_refused_for_now_does_not_hold_up_the_others(
    count: int, ordered: bool
) -> None:
    script: Script = {"MAIL FROM:<2@x.test>": [LATER, LATER]}
    watched = Watched(script, Retry(3, base=100), limits=Limits(max_connections=count))
    async with no_leaks(), watched:
        found = await stream(watched.client, 30, ordered=ordered)
        assert 50 + 150 <= watched.seconds <= 401
    keys = [delivery.key for delivery in found]
    everybody = list(range(30))
    assert keys == everybody if ordered else (sorted(keys) == everybody and keys[-1] == 2)
    assert all(delivery.outcome == "accepted" for delivery in found)
    subjects = [subject_of(one) for one in watched.server.messages]
    assert sorted(subjects, key=int) == [str(n) for n in everybody]
    assert subjects[-1] == "2"


async def test_in_a_stream_only_those_who_were_refused_for_now_are_asked_again() -> None:
    script: Script = {f"RCPT TO:<{C}>": ["450 4.2.1 Later"] * 5}
    async with Watched(script, Retry(2)) as watched:
        found = await stream(watched.client, 5)
    assert all(set(delivery.accepted) == {B, C} for delivery in found)
    sent = Counter((subject_of(one), *one.recipients) for one in watched.server.messages)
    assert sent == Counter((str(n), who) for n in range(5) for who in RECIPIENTS)


async def test_in_a_stream_what_is_in_doubt_is_not_sent_again() -> None:
    async with Watched({".": [DROP]}, Retry(5)) as watched:
        found = await stream(watched.client, 5)
    assert Counter(delivery.outcome for delivery in found) == {"accepted": 4, "in_doubt": 1}
    sent = Counter(subject_of(one) for one in watched.server.received)
    assert sent == Counter(str(n) for n in range(5))


async def test_in_a_stream_the_last_error_is_in_the_delivery() -> None:
    async with Watched({"MAIL FROM:<1@x.test>": LATER}, Retry(3)) as watched:
        found = await stream(watched.client, 3, ordered=True)
    assert [delivery.outcome for delivery in found] == ["accepted", "refused", "accepted"]
    with pytest.raises(SMTPSenderRefused):
        found[1].result()
    assert found[1].may_retry


async def test_in_a_stream_a_server_that_cannot_be_reached_is_tried_again() -> None:
    async with no_leaks(), Watched({"CONNECT": [RESET, RESET]}, Retry(3)) as watched:
        found = await stream(watched.client, 5)
        assert 0.5 <= watched.seconds <= 5.1
    assert all(delivery.outcome == "accepted" for delivery in found)
    assert len(watched.server.messages) == 5


async def test_in_a_stream_a_server_that_is_not_reached_at_all_ends_it() -> None:
    async with no_leaks(), Watched({"CONNECT": RESET}, Retry(3)) as watched:
        with pytest.raises(SMTPConnectError):
            await stream(watched.client, 5)
        assert watched.seconds <= 20


async def test_a_stream_that_is_left_while_something_waits_ends_at_once() -> None:
    async with no_leaks(), Watched({"MAIL FROM:<0@x.test>": LATER}, Retry(3, base=100)) as watched:
        async with watched.client.send_many(mails(3)) as deliveries:
            async for delivery in deliveries:
                if delivery.key == 2:
                    break
        assert watched.seconds < 1
    assert sorted(subject_of(one) for one in watched.server.messages) == ["1", "2"]
