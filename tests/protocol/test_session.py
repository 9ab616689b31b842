"""A session: which reply belongs to which command, and what is known after it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anysmtp._protocol import _commands
from anysmtp._protocol._commands import Command
from anysmtp._protocol._session import Awaited, Session
from anysmtp._protocol._states import READS_CHUNKS_AS_COMMANDS
from anysmtp._reply import Reply
from anysmtp.errors import SMTPProtocolError

MAIL = _commands.mail("a@x")
RCPT = _commands.rcpt("b@x")
EHLO = _commands.ehlo("me.example")
CHUNK = _commands.bdat(10, is_last=False)
LAST_CHUNK = _commands.bdat(10, is_last=True)


def ready(*extensions: str) -> Session:
    session = Session()
    answer(session, "220 hello")
    talk(session, EHLO, "\n".join(["250-hello", *(f"250-{line}" for line in extensions), "250 X"]))
    return session


def answer(session: Session, reply: str) -> Awaited | None:
    session.receive(reply.replace("\n", "\r\n").encode() + b"\r\n")
    return session.next_reply()


def talk(session: Session, command: Command, reply: str) -> Awaited:
    awaited = session.send(command)
    assert answer(session, reply) is awaited
    return awaited


def in_rcpt() -> Session:
    session = ready()
    for command in (MAIL, RCPT):
        talk(session, command, "250")
    return session


def in_body() -> Session:
    session = in_rcpt()
    talk(session, _commands.DATA, "354")
    return session


def test_replies_are_paired_in_order() -> None:
    session = ready()
    sent = [session.send(command) for command in (_commands.RSET, MAIL, RCPT, _commands.DATA)]
    session.receive(b"250 reset\r\n250 mail\r\n550 rcpt\r\n554 da")
    for awaited in sent[:3]:
        assert session.head is awaited
        assert session.next_reply() is awaited
    assert session.next_reply() is None
    assert not session.is_quiet
    session.receive(b"ta\r\n")
    assert session.next_reply() is sent[3]
    assert [awaited.reply for awaited in sent] == [
        *(Reply(250, "reset"), Reply(250, "mail"), Reply(550, "rcpt"), Reply(554, "data")),
    ]


def test_it_is_quiet_when_nothing_is_owed() -> None:
    session = ready()
    assert session.is_quiet
    session.receive(b"4")
    assert not session.is_quiet


def test_a_sink_is_told_in_the_step_that_reads_the_reply() -> None:
    session = ready()
    told: list[Reply] = []
    session.send(MAIL, told.append)
    assert told == []
    answer(session, "250 ok")
    assert told == [Reply(250, "ok")]


def test_a_reply_is_shown_as_it_came() -> None:
    assert talk(ready(), _commands.NOOP, "250-first\n250 second").shown() == [
        *("250-first", "250 second"),
    ]


def test_a_challenge_is_not_shown() -> None:
    session = ready()
    assert talk(session, _commands.AUTH, "334 c2VjcmV0").shown() == ["334 ***"]
    assert talk(session, _commands.auth_response(""), "535 no").shown() == ["535 no"]


def test_the_greeting_is_the_first_reply() -> None:
    session = Session()
    assert session.head is not None
    assert session.head.command is _commands.GREETING
    awaited = answer(session, "220-mail.example\n220 hello")
    assert awaited is not None
    assert awaited.succeeded
    assert session.phase == "greeted"


@pytest.mark.parametrize("reply", ["250 ok", "354 go", "500 what"])
def test_a_reply_to_nothing_is_a_breach(reply: str) -> None:
    with pytest.raises(SMTPProtocolError, match="to no command"):
        answer(ready(), reply)


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        (MAIL, "354 go"),
        (_commands.NOOP, "334 "),
        (_commands.QUIT, "300"),
        (EHLO, "399"),
    ],
)
def test_a_reply_of_another_kind_is_a_breach(command: Command, reply: str) -> None:
    session = ready()
    session.send(command)
    with pytest.raises(SMTPProtocolError, match=f"not a reply to {command.verb}") as caught:
        answer(session, reply)
    assert caught.value.command == command.shown
    assert caught.value.reply is not None


def test_a_yes_to_data_that_asks_for_no_message_is_a_breach() -> None:
    session = ready()
    talk(session, MAIL, "250")
    talk(session, RCPT, "250")
    session.send(_commands.DATA)
    with pytest.raises(SMTPProtocolError, match="not a reply to DATA"):
        answer(session, "250 ok")


def test_what_an_unknown_command_is_answered_is_the_callers_to_judge() -> None:
    session = ready()
    awaited = talk(session, Command("XFOO"), "350 more")
    assert awaited.reply == Reply(350, "more")
    assert session.phase == "ready"


@pytest.mark.parametrize("phase", ["idle", "awaiting", "body"])
def test_421_may_come_at_any_time_and_is_the_last_word(phase: str) -> None:
    session = in_body() if phase == "body" else ready()
    awaited = session.send(_commands.NOOP) if phase == "awaiting" else None
    assert answer(session, "421 4.4.2 idle") is awaited
    assert session.goodbye == Reply(421, "4.4.2 idle")
    with pytest.raises(RuntimeError, match="connection that is closed"):
        session.send(_commands.NOOP)


def test_a_broken_session_stays_broken() -> None:
    session = ready()
    session.broken = "a write was interrupted"
    with pytest.raises(RuntimeError, match="NOOP on a connection that is closed"):
        session.send(_commands.NOOP)


def test_a_command_that_cannot_be_sent_changes_nothing() -> None:
    session = ready()
    with pytest.raises(RuntimeError, match="RCPT is not possible now: the session is in 'ready'"):
        session.send(RCPT)
    assert session.is_quiet
    assert not session.may_have_transaction
    talk(session, _commands.NOOP, "250")


def test_behind_a_refused_mail_the_phase_stays() -> None:
    session = ready()
    for command in (MAIL, RCPT, _commands.DATA):
        session.send(command)
    answer(session, "550 no")
    answer(session, "250 strange")
    assert session.phase == "ready"
    answer(session, "503 no")
    assert session.phase == "ready"


def test_354_is_followed_by_a_message_whatever_was_refused() -> None:
    session = ready()
    for command in (MAIL, RCPT, _commands.DATA):
        session.send(command)
    for reply in ("550 no", "250 strange", "354 go"):
        answer(session, reply)
    assert session.phase == "body"


def test_the_end_of_a_message_is_a_command_too() -> None:
    session = in_body()
    assert not session.is_quiet
    told: list[Reply] = []
    end = session.begin_body(told.append)
    end.written = True
    assert answer(session, "250 queued") is end
    assert told == [Reply(250, "queued")]
    assert session.phase == "ready"
    assert session.is_quiet


def test_a_message_may_be_refused_before_its_end() -> None:
    session = in_body()
    told: list[Reply] = []
    end = session.begin_body(told.append)
    assert answer(session, "552 too big") is end
    assert told == [Reply(552, "too big")]
    assert session.phase == "ready"


def test_a_message_cannot_be_accepted_before_its_end() -> None:
    session = in_body()
    told: list[Reply] = []
    session.begin_body(told.append)
    with pytest.raises(SMTPProtocolError, match="accepted before the end"):
        answer(session, "250 queued")
    assert told == []


def test_ehlo_says_what_is_offered_and_helo_that_nothing_is() -> None:
    session = ready("PIPELINING")
    assert session.extensions.pipelining
    talk(session, EHLO, "250-hello\n250 SMTPUTF8")
    assert list(session.extensions) == ["SMTPUTF8"]
    talk(session, _commands.helo("me.example"), "250-hello\n250 PIPELINING")
    assert list(session.extensions) == []


def test_a_refused_ehlo_changes_nothing() -> None:
    session = ready("PIPELINING")
    talk(session, EHLO, "503 Already identified")
    assert session.extensions.pipelining
    assert session.phase == "ready"


def test_nothing_is_remembered_from_before_tls() -> None:
    session = ready("STARTTLS", "AUTH PLAIN")
    talk(session, _commands.STARTTLS, "220 go")
    session.encrypted()
    assert session.phase == "greeted"
    assert list(session.extensions) == []


@pytest.mark.parametrize(
    ("command", "reply", "may_be_open"),
    [
        (_commands.RSET, "250", False),
        (_commands.RSET, "500", True),
        (EHLO, "250", False),
        (_commands.helo("me"), "250", False),
        (_commands.NOOP, "250", True),
        (RCPT, "550", True),
    ],
)
def test_a_transaction_may_be_open_until_its_end_is_confirmed(
    command: Command, reply: str, may_be_open: bool
) -> None:
    session = ready()
    talk(session, MAIL, "250")
    talk(session, command, reply)
    assert session.may_have_transaction is may_be_open


@pytest.mark.parametrize("replies", [[], ["250 ok"], ["550 no"]])
def test_a_transaction_may_be_open_from_the_moment_that_mail_is_sent(replies: list[str]) -> None:
    session = ready()
    before = session.may_have_transaction
    session.send(MAIL)
    for reply in replies:
        answer(session, reply)
    assert (before, session.may_have_transaction) == (False, True)


@pytest.mark.parametrize(("reply", "may_be_open"), [("250", False), ("550", True)])
def test_a_refused_message_may_leave_its_transaction_open(reply: str, may_be_open: bool) -> None:
    session = in_body()
    session.begin_body(lambda reply: None).written = True
    answer(session, reply)
    assert session.may_have_transaction is may_be_open


def test_a_reset_does_not_end_the_transaction_that_was_opened_behind_it() -> None:
    session = ready()
    for command in (_commands.RSET, MAIL, RCPT, _commands.DATA):
        session.send(command)
    for reply in ("250", "250", "550", "554"):
        answer(session, reply)
    assert session.may_have_transaction


# Those who wait


def test_those_who_wait_are_named_in_the_order_of_the_replies() -> None:
    session = ready()
    for command, owner in ((_commands.RSET, None), (MAIL, "a"), (RCPT, "a"), (RCPT, "b")):
        session.send(command, owner=owner)
    assert [*session.owners] == ["a", "a", "b"]
    assert session.awaits == 4
    assert (session.head and session.head.owner) is None
    assert (session.last and session.last.owner) == "b"
    for _ in range(2):
        answer(session, "250")
    assert [*session.owners] == ["a", "b"]
    assert (session.head and session.head.owner) == "a"


def test_what_is_forsaken_is_read_for_those_behind_it() -> None:
    session = ready()
    told: list[tuple[str, int]] = []

    def sink(name: str) -> Callable[[Reply], None]:
        return lambda reply: told.append((name, reply.code))

    for command, owner in ((MAIL, "a"), (RCPT, "a"), (_commands.RSET, "b")):
        session.send(command, sink(owner), owner)
    session.forsake("a")
    assert [*session.owners] == ["b"]
    assert session.awaits == 3
    session.receive(b"250\r\n550\r\n250\r\n")
    while session.next_reply():
        pass
    # The ledger of the one who has gone is told all the same.
    assert told == [("a", 250), ("a", 550), ("b", 250)]
    assert session.is_quiet


def test_nobody_waits_where_nothing_was_sent() -> None:
    session = ready()
    assert ([*session.owners], session.awaits) == ([], 0)
    assert (session.head, session.last) == (None, None)
    session.forsake("a")


@pytest.mark.parametrize(
    ("commands", "is_possible"),
    [
        ([], True),
        ([_commands.NOOP], True),
        ([EHLO], True),
        ([_commands.RSET, MAIL, RCPT], True),
        ([MAIL, RCPT, LAST_CHUNK], True),
        ([MAIL, RCPT, _commands.DATA], False),
        ([_commands.AUTH], False),
        ([_commands.STARTTLS], False),
        ([_commands.QUIT], False),
    ],
    ids=str,
)
def test_a_session_can_be_followed_if_no_reply_asks_for_more(
    commands: list[Command], is_possible: bool
) -> None:
    session = ready()
    for command in commands:
        session.send(command)
    assert session.can_be_followed is is_possible


def test_a_session_cannot_be_followed_inside_a_message() -> None:
    session = in_body()
    seen = [session.can_be_followed]
    end = session.begin_body(lambda reply: None, "a")
    assert [*session.owners] == ["a"]
    seen.append(session.can_be_followed)
    end.written = True
    assert [*seen, session.can_be_followed] == [False, False, True]


def test_a_session_cannot_be_followed_inside_a_login() -> None:
    session = ready()
    talk(session, _commands.AUTH, "334 ")
    assert not session.can_be_followed


@pytest.mark.parametrize(
    ("offers", "command", "is_possible"),
    [
        ("PIPELINING", None, True),
        ("8BITMIME", None, True),
        ("PIPELINING", MAIL, True),
        ("8BITMIME", MAIL, False),
        ("PIPELINING", _commands.NOOP, False),
    ],
)
def test_another_command_may_follow_at_once_where_the_server_and_the_table_let_it(
    offers: str, command: Command | None, is_possible: bool
) -> None:
    session = ready(offers)
    if command is not None:
        session.send(command)
    assert session.may_be_followed_now is is_possible


def test_it_is_known_how_much_of_messages_is_unanswered() -> None:
    session = ready()
    for number, size in enumerate((100, 20, 3)):
        for command in (*([_commands.RSET] if number else []), MAIL, RCPT):
            session.send(command)
        session.send(LAST_CHUNK, octets=size)
    seen = [session.unanswered]
    while session.awaits:
        answer(session, "250")
        if session.unanswered != seen[-1]:
            seen.append(session.unanswered)
    assert seen == [123, 23, 3, 0]


def test_a_breach_is_blamed_on_what_was_next_in_line() -> None:
    session = ready()
    session.send(MAIL, owner="a")
    session.send(RCPT, owner="b")
    session.receive(b"250 ok\r\nwhat?\r\n")
    assert session.next_reply() is not None
    with pytest.raises(SMTPProtocolError):
        session.next_reply()
    assert (session.blamed and session.blamed.owner) == "b"


def test_a_reply_to_no_command_is_blamed_on_nobody() -> None:
    session = ready()
    with pytest.raises(SMTPProtocolError):
        answer(session, "250 ok")
    assert session.blamed is None


# Chunks


def test_a_message_in_one_chunk_ends_its_transaction() -> None:
    session = in_rcpt()
    talk(session, LAST_CHUNK, "250 queued")
    assert session.phase == "ready"
    assert not session.may_have_transaction


def test_a_message_in_several_chunks_is_in_chunks_in_between() -> None:
    session = in_rcpt()
    seen: list[tuple[str, bool]] = []
    for chunk in (CHUNK, CHUNK, _commands.bdat(0, is_last=True)):
        talk(session, chunk, "250 ok")
        seen.append((session.phase, session.may_have_transaction))
    assert seen == [("chunks", True), ("chunks", True), ("ready", False)]


def test_several_transactions_may_be_on_their_way_at_once() -> None:
    session = ready()
    for _ in range(3):
        for command in (_commands.RSET, MAIL, RCPT, LAST_CHUNK):
            session.send(command)
    for left in range(11, -1, -1):
        assert session.may_have_transaction
        answer(session, "250")
        assert session.awaits == left
    assert not session.may_have_transaction
    assert session.is_quiet


@pytest.mark.parametrize("code", [450, 451, 452, 550, 554])
def test_a_refused_chunk_was_read(code: int) -> None:
    session = in_rcpt()
    talk(session, LAST_CHUNK, f"{code} no")
    assert not session.out_of_step
    assert session.phase == "rcpt"
    assert session.may_have_transaction
    talk(session, _commands.RSET, "250")


@pytest.mark.parametrize("command", [CHUNK, LAST_CHUNK])
@pytest.mark.parametrize("code", sorted(READS_CHUNKS_AS_COMMANDS))
def test_behind_a_chunk_that_may_have_been_read_as_commands_nothing_is_believed(
    code: int, command: Command
) -> None:
    session = in_rcpt()
    session.send(command)
    session.send(_commands.RSET)
    session.receive(f"{code} what?\r\n250 the second line of the message\r\n".encode())
    assert session.next_reply() is not None
    assert session.out_of_step
    assert session.next_reply() is None
    assert session.awaits == 1


def test_so_it_is_in_the_middle_of_a_message() -> None:
    session = in_rcpt()
    talk(session, CHUNK, "250")
    talk(session, CHUNK, "552 too much")
    assert session.out_of_step


@pytest.mark.parametrize("refused", [MAIL, RCPT])
def test_a_chunk_that_nobody_could_have_was_read(refused: Command) -> None:
    """A server that takes no recipient says 503 to the chunk for that reason."""
    session = ready()
    for command in (MAIL, RCPT, LAST_CHUNK, _commands.RSET):
        session.send(command)
    for command in (MAIL, RCPT):
        answer(session, "550 no" if command is refused else "250 ok")
    answer(session, "503 no recipients")
    assert not session.out_of_step
    assert answer(session, "250 reset") is not None
    assert session.is_quiet


def test_a_chunk_that_is_taken_for_nobody_leaves_no_transaction() -> None:
    session = ready()
    for command in (MAIL, RCPT, LAST_CHUNK):
        session.send(command)
    for reply in ("250 ok", "550 no", "250 strange"):
        answer(session, reply)
    session.send(MAIL)
