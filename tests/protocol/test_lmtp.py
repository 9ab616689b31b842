"""LMTP without I/O: which reply is whose, whole and octet by octet."""

from __future__ import annotations

import pytest

from anysmtp._delivery import Delivery, Ledger, ledger_of
from anysmtp._envelope import Job, Mailbox
from anysmtp._message._content import RawContent
from anysmtp._protocol import _commands
from anysmtp._protocol._lmtp import LMTPSession, LMTPTransaction
from anysmtp._protocol._transaction import Pipelining
from anysmtp.errors import SMTPDataError, SMTPException, SMTPProtocolError, SMTPRecipientsRefused

KEYS = ("a@x", "b@x", "c@x")
HELLO = b"250-x\r\n250-PIPELINING\r\n250 CHUNKING\r\n"
TAKEN = b"250 ok\r\n" * 4


class Talk:
    """A session and one transaction in it; `hear` gives it what the server says."""

    def __init__(self, pipelining: Pipelining = "auto", size: int | None = None) -> None:
        self.size = size
        self.session = LMTPSession()
        self.hear(b"220 hi\r\n")
        self.session.send(_commands.lhlo("me.example"))
        self.hear(HELLO)
        boxes = tuple(Mailbox(key, key, key) for key in KEYS)
        content = RawContent(b"Subject: x\r\n\r\nx\r\n")
        self.delivery = Delivery()
        self.ledger: Ledger = ledger_of(self.delivery)
        self.ledger.start(KEYS)
        job = Job(sender=None, recipients=boxes, content=content)
        self.transaction = LMTPTransaction(
            *(job, content, self.session.extensions, self.ledger),
            reset_first=False,
            pipelining=pipelining,
        )
        for command, sink in self.transaction.flight():
            self.session.send(command, sink)
        if self.transaction.is_eager:
            self.transaction.hand_over()

    def hear(self, data: bytes) -> list[int]:
        """The codes of the replies, in the order in which they were paired."""
        step = self.size or len(data)
        codes: list[int] = []
        for start in range(0, len(data), step):
            self.session.receive(data[start : start + step])
            while (pair := self.session.next_reply()) is not None:
                assert pair.reply is not None
                codes.append(pair.reply.code)
        return codes

    def send_body(self) -> None:
        end = self.session.begin_body(self.transaction.take_final)
        end.written = True
        self.transaction.hand_over()

    def facts(self) -> dict[str, object]:
        delivery = self.delivery
        codes: dict[str, object] = dict.fromkeys(delivery.in_doubt, "in doubt")
        codes |= dict.fromkeys(delivery.not_sent, "not sent")
        both = {**delivery.accepted, **delivery.refused}
        return codes | {key: reply.code for key, reply in both.items()}


@pytest.fixture(params=[None, 1], ids=["whole", "octet by octet"])
def size(request: pytest.FixtureRequest) -> int | None:
    chosen: int | None = request.param
    return chosen


def test_each_recipient_has_a_reply_of_its_own(size: int | None) -> None:
    talk = Talk(size=size)
    talk.hear(TAKEN + b"354 go\r\n")
    talk.send_body()
    assert talk.session.awaits == 1
    assert talk.hear(b"250 a\r\n552-b\r\n552 b\r\n") == [250, 552]
    assert talk.facts() == {"a@x": 250, "b@x": 552, "c@x": "in doubt"}
    assert talk.session.awaits == 1
    assert talk.hear(b"452 c\r\n") == [452]
    assert talk.facts() == {"a@x": 250, "b@x": 552, "c@x": 452}
    assert talk.session.is_quiet
    assert talk.transaction.result().code == 452


def test_in_an_eager_flight_too(size: int | None) -> None:
    talk = Talk("eager", size=size)
    assert talk.session.awaits == 5
    talk.hear(b"250 m\r\n250 a\r\n550 b\r\n250 c\r\n552 a\r\n")
    assert talk.facts() == {"a@x": 552, "b@x": 550, "c@x": "in doubt"}
    assert not talk.session.out_of_step
    talk.hear(b"552 c\r\n")
    assert talk.session.is_quiet
    assert not talk.session.out_of_step
    assert not talk.transaction.wears_out
    with pytest.raises(SMTPRecipientsRefused) as caught:
        talk.transaction.result()
    assert [*caught.value.refused] == ["b@x", "a@x", "c@x"]


@pytest.mark.parametrize("pipelining", ["auto", "eager"])
def test_without_a_recipient_there_is_one_reply(pipelining: Pipelining) -> None:
    talk = Talk(pipelining)
    talk.hear(b"250 m\r\n550 a\r\n550 b\r\n550 c\r\n503 none\r\n")
    assert talk.session.is_quiet
    assert talk.facts() == dict.fromkeys(KEYS, 550)
    assert talk.transaction.end == "nothing"
    with pytest.raises(SMTPRecipientsRefused):
        talk.transaction.result()


def test_a_refused_sender_leaves_no_count_of_recipients_behind() -> None:
    talk = Talk("eager")
    talk.hear(b"550 m\r\n503 a\r\n503 b\r\n503 c\r\n503 none\r\n")
    assert talk.session.is_quiet
    with pytest.raises(SMTPException, match="550 m"):
        talk.transaction.result()


def test_a_server_that_has_the_message_all_the_same_is_believed() -> None:
    talk = Talk("eager")
    talk.hear(b"550 m\r\n250 a\r\n250 b\r\n250 c\r\n250 a\r\n250 b\r\n552 c\r\n")
    assert talk.facts() == {"a@x": 250, "b@x": 250, "c@x": 552}
    assert talk.transaction.result().code == 552


def test_a_354_without_recipients_cannot_be_ended_by_a_dot() -> None:
    talk = Talk()
    talk.hear(b"250 m\r\n550 a\r\n550 b\r\n550 c\r\n354 go\r\n")
    assert talk.transaction.end == "hang up"


def test_before_its_end_is_out_a_message_is_refused_as_a_whole() -> None:
    talk = Talk()
    talk.hear(TAKEN + b"354 go\r\n")
    talk.session.begin_body(talk.transaction.take_final)
    talk.hear(b"552 too big\r\n")
    assert talk.session.awaits == 0
    assert talk.facts() == dict.fromkeys(KEYS, 552)
    with pytest.raises(SMTPDataError):
        talk.transaction.result()


def test_a_421_is_one_recipients_and_the_sessions_end() -> None:
    talk = Talk()
    talk.hear(TAKEN + b"354 go\r\n")
    talk.send_body()
    talk.hear(b"250 a\r\n421 bye\r\n")
    assert talk.session.goodbye is not None
    assert talk.facts() == {"a@x": 250, "b@x": 421, "c@x": "in doubt"}


@pytest.mark.parametrize("reply", [b"354 go\r\n", b"150 wait\r\n", b"what\r\n"])
def test_what_is_no_reply_to_a_message_is_a_breach(reply: bytes) -> None:
    talk = Talk()
    talk.hear(TAKEN + b"354 go\r\n")
    talk.send_body()
    with pytest.raises(SMTPProtocolError):
        talk.hear(b"250 a\r\n" + reply)
    assert talk.session.blamed is talk.session.head
    assert talk.facts() == {"a@x": 250, "b@x": "in doubt", "c@x": "in doubt"}


def test_a_reply_that_comes_after_the_end_of_the_send_ends_a_doubt() -> None:
    talk = Talk()
    talk.hear(TAKEN + b"354 go\r\n")
    talk.send_body()
    talk.hear(b"250 a\r\n")
    talk.ledger.finish(SMTPException("cancelled"))
    talk.hear(b"552 b\r\n250 c\r\n")
    assert talk.facts() == {"a@x": 250, "b@x": 552, "c@x": 250}
    assert len(talk.ledger.finals) == 1


def test_the_next_transaction_counts_anew() -> None:
    talk = Talk()
    talk.hear(TAKEN + b"354 go\r\n")
    talk.send_body()
    talk.hear(b"250 a\r\n250 b\r\n250 c\r\n")
    assert talk.session.is_quiet
    for command in (_commands.mail(""), _commands.rcpt("a@x"), _commands.DATA):
        talk.session.send(command)
    talk.hear(b"250 m\r\n250 a\r\n354 go\r\n")
    talk.session.begin_body(lambda reply: None).written = True
    assert talk.hear(b"250 a\r\n") == [250]
    assert talk.session.is_quiet
