"""The exceptions: what they say, what they are, and whether to try again."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from anysmtp import errors
from anysmtp._delivery import Delivery, Outcome, ledger_of
from anysmtp._reply import Reply
from anysmtp.errors import (
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPMessageTooLarge,
    SMTPNotSupported,
    SMTPProxyError,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
    SMTPTLSError,
    is_final,
    with_outcome,
)

KINDS: list[type[SMTPException]] = [getattr(errors, name) for name in errors.__all__]
LATER = Reply(450, "4.2.0 later")
NEVER = Reply(550, "5.1.1 no such user")

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def make(kind: type[SMTPException], reply: Reply | None = NEVER, **context: Any) -> SMTPException:
    """An exception as a user's test would construct it."""
    if issubclass(kind, SMTPRecipientsRefused):
        return kind({"b@x": reply} if reply else {}, **context)
    if issubclass(kind, SMTPResponseException):
        assert reply is not None
        return kind(reply, **context)
    return kind("it failed", reply=reply, **context)


def ended(facts: Mapping[str, Reply | None], error: Exception | None = None) -> Delivery[str]:
    """A delivery that ended with each recipient refused by a reply, or not sent to."""
    delivery = Delivery(key="42")
    ledger = ledger_of(delivery)
    ledger.start(facts)
    for key, reply in facts.items():
        if reply is not None:
            ledger.refuse((key,), reply)
    ledger.finish(error or SMTPException("it failed", delivery=delivery))
    return delivery


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SMTPException(), ""),
        (SMTPException("it failed"), "it failed"),
        (SMTPTLSError("it failed", server="h:1"), "h:1: it failed"),
        (SMTPTimeoutError("too late", server="h:1", command="NOOP"), "h:1 NOOP: too late"),
        (SMTPServerDisconnected("gone", reply=Reply(421, "bye")), "gone (421 bye)"),
        (SMTPHeloError(Reply(500)), "500"),
        (SMTPSenderRefused(NEVER, command="MAIL FROM:<>"), f"MAIL FROM:<>: {NEVER}"),
        (SMTPResponseException(Reply(502, "a\rb")), "502 a\\x0db"),
        (
            SMTPRecipientsRefused({"b@x": NEVER}, server="smtp.example.com:587"),
            "smtp.example.com:587 RCPT TO:<b@x>: 550 5.1.1 no such user",
        ),
        (
            SMTPRecipientsRefused({"b@x": NEVER, "c@x": LATER}),
            "RCPT TO:<b@x>: 2 recipients refused, first (550 5.1.1 no such user)",
        ),
        (SMTPRecipientsRefused({"Bob <b@x>": NEVER}), f"RCPT TO:<b@x>: {NEVER}"),
        (SMTPRecipientsRefused({'">"@x': NEVER}), f'RCPT TO:<">"@x>: {NEVER}'),
        (SMTPRecipientsRefused({"b@x": NEVER}, command="MAIL FROM:<>"), f"MAIL FROM:<>: {NEVER}"),
        (SMTPRecipientsRefused({}, server="h:1"), "h:1"),
    ],
)
def test_the_text_says_where_and_what(error: SMTPException, text: str) -> None:
    assert str(error) == text


def test_the_docstring_draws_every_exception() -> None:
    assert errors.__doc__ is not None
    assert all(f"{name} " in errors.__doc__ for name in errors.__all__)


@each_kind
def test_builtin_bases_are_those_that_callers_catch(kind: type[SMTPException]) -> None:
    builtin = {base for base in kind.__mro__ if base.__module__ == "builtins"}
    extra: dict[type[SMTPException], set[type]] = {
        SMTPConnectError: {ConnectionError, OSError},
        SMTPProxyError: {ConnectionError, OSError},
        SMTPServerDisconnected: {ConnectionError, OSError},
        SMTPTimeoutError: {TimeoutError, OSError},
    }
    assert builtin == {Exception, BaseException, object} | extra.get(kind, set())


@each_kind
def test_the_context_is_kept(kind: type[SMTPException]) -> None:
    error = make(kind, server="h:25", command="DATA", connection_closed=True)
    assert (error.server, error.command, error.connection_closed) == ("h:25", "DATA", True)
    assert (error.reply, error.delivery) == (NEVER, None)


def test_arguments_are_those_that_it_was_made_of() -> None:
    assert SMTPTLSError("no").args == ("no",)
    assert SMTPDataError(NEVER).args == (NEVER,)
    assert SMTPDataError(NEVER).code == 550
    refused = {"b@x": NEVER}
    error = SMTPRecipientsRefused(refused)
    refused.clear()
    assert error.refused == {"b@x": NEVER}
    assert error.args == (error.refused,)


@each_kind
def test_it_survives_pickling(kind: type[SMTPException]) -> None:
    error = make(kind, server="h:25", command="DATA", outcome="in_doubt", connection_closed=True)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert copy.args == error.args


@each_kind
def test_it_survives_pickling_together_with_its_delivery(kind: type[SMTPException]) -> None:
    error = make(kind)
    error.delivery = ended({"b@x": LATER, "c@x": None}, error)
    copy = pickle.loads(pickle.dumps(error))
    assert copy.delivery.key == "42"
    assert copy.delivery.exception() is copy
    assert copy.delivery.refused == {"b@x": LATER}
    again = pickle.loads(pickle.dumps(copy.delivery))
    assert again.exception().delivery is again
    assert again.not_sent == ("c@x",)


def test_the_outcome_is_the_deliverys() -> None:
    delivery = ended({"b@x": NEVER, "c@x": None})
    assert make(SMTPDataError, delivery=delivery).outcome == "not_sent"
    assert SMTPException(delivery=delivery, outcome="in_doubt").outcome == "in_doubt"
    assert SMTPException().outcome is None
    assert with_outcome(SMTPException(), "in_doubt").in_doubt


def test_refused_recipients_are_refused_though_no_send_says_it() -> None:
    assert SMTPRecipientsRefused({"b@x": NEVER}).outcome == "refused"
    delivery = ended({"b@x": NEVER, "c@x": None})
    assert SMTPRecipientsRefused({"b@x": NEVER}, delivery=delivery).outcome == "not_sent"


@pytest.mark.parametrize(
    ("reply", "outcome", "may_retry"),
    [
        (None, None, False),
        (LATER, None, True),
        (NEVER, None, False),
        (Reply(354), None, False),
        (None, "not_sent", True),
        (NEVER, "not_sent", True),
        (None, "in_doubt", False),
        (LATER, "in_doubt", False),
    ],
)
def test_without_a_delivery_the_reply_and_the_outcome_decide(
    reply: Reply | None, outcome: Outcome | None, may_retry: bool
) -> None:
    error = SMTPServerDisconnected(reply=reply, outcome=outcome)
    assert error.may_retry is may_retry
    assert error.in_doubt is (outcome == "in_doubt")


@pytest.mark.parametrize(
    ("facts", "may_retry"),
    [
        ({"b@x": NEVER}, False),
        ({"b@x": NEVER, "c@x": LATER}, True),
        ({"b@x": NEVER, "c@x": None}, True),
    ],
)
@pytest.mark.parametrize("kind", [SMTPDataError, SMTPRecipientsRefused])
def test_with_a_delivery_its_recipients_decide(
    kind: type[SMTPException], facts: dict[str, Reply | None], may_retry: bool
) -> None:
    assert make(kind, delivery=ended(facts)).may_retry is may_retry


def test_one_recipient_that_was_refused_for_now_is_worth_a_retry() -> None:
    assert SMTPRecipientsRefused({"b@x": NEVER, "c@x": LATER}).may_retry
    assert not SMTPRecipientsRefused({"b@x": NEVER}).may_retry


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (None, False),
        (SMTPException(), False),
        (SMTPConnectError(), False),
        (SMTPProxyError(hop="target"), False),
        (SMTPProxyError(hop="login"), True),
        (SMTPDataError(NEVER), False),
        (SMTPNotSupported(), True),
        (SMTPMessageTooLarge(), True),
        (SMTPAuthenticationError(), True),
        (SMTPAuthenticationError(reply=Reply(535)), True),
        (SMTPAuthenticationError(reply=Reply(334)), True),
        (SMTPAuthenticationError(reply=Reply(454)), False),
        (ValueError(), True),
        (TypeError(), True),
        (OSError(), False),
    ],
)
def test_an_error_that_would_come_again_is_final(error: BaseException | None, final: bool) -> None:
    assert is_final(error) is final


def test_after_a_final_error_nothing_may_be_retried() -> None:
    error = SMTPNotSupported(outcome="not_sent")
    assert not error.may_retry
    error.delivery = ended({"b@x": None}, error)
    assert not error.may_retry
    assert not error.delivery.may_retry
