"""What is known about each recipient of one send, at every moment.

Two faces of one book: a `Ledger` is written by the client as replies come in; a `Delivery` is the
caller's view of it, which stays true after any end of the send, cancellation included. The
client writes each fact in the same step in which it learns it, without an await in
between: that is what makes the view true.

The facts about a recipient move along these lines only::

    not_sent ──(refused before its end)─────> refused
    not_sent ──(terminator about to leave)──> in_doubt ──(final reply)──> accepted | refused

and back to not_sent, by `Ledger.start` and `Ledger.again`, for those that a further attempt asks
again: never from accepted or in_doubt. Where a message leaves before its envelope is answered, the
server's word that it ends the session takes it back from in_doubt too; until it takes the message
all the same.

A reply may come after the end of a send: a cancelled one whose connection other tasks go on to
use. Then in_doubt becomes what the server has said, in the Delivery too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, cast, overload

from ._envelope import Receipt
from ._facts import Facts
from ._reply import Reply
from .errors import SMTPException, is_final

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    K = TypeVar("K", default=None)
else:
    from typing import TypeVar

    K = TypeVar("K")

Outcome: TypeAlias = Literal["accepted", "refused", "not_sent", "in_doubt"]
Phase: TypeAlias = Literal["waiting", "connecting", "envelope", "body", "reply", "done"]

# What is known about a recipient: the outcome, the reply that says so, if one does, and the epoch
# in which it was handed over, if it is in doubt.
_Fact: TypeAlias = tuple[Outcome, Any, int]
_NOT_SENT: _Fact = ("not_sent", None, 0)
# From best to worst: what the server said yes to, said no to, was never asked, may have.
_WORST: tuple[Outcome, ...] = ("accepted", "refused", "not_sent", "in_doubt")


class Ledger:
    """The book of one send: the client's side of a `Delivery`."""

    __slots__ = (
        "_all_or_nobody",
        "_facts",
        "bytes_sent",
        "bytes_total",
        "epoch",
        "error",
        "finals",
        "left_over",
        "login_failures",
        "message_id",
        "phase",
        "receipt",
        "server",
    )

    def __init__(self) -> None:
        self.phase: Phase = "waiting"
        self.epoch = 0
        """Counts the attempts and their ends: a transaction of an earlier one is late."""
        self.bytes_sent = 0
        self.bytes_total: int | None = None
        self.message_id: str | None = None
        self.receipt: Receipt | None = None
        self.error: BaseException | None = None
        self.finals: list[Reply] = []
        """The replies to the ends of the message: one for each transaction of this send."""
        self.left_over: tuple[str, ...] = ()
        """The recipients for whom the last transaction had no room."""
        self.login_failures: int | None = None
        """The last failed login, by its client's count, that this send was told of, if it was."""
        self.server = ""
        """The server that answered last, as ``"smtp.example.com:587"``."""
        self._facts: Facts[_Fact] = Facts(_NOT_SENT)
        self._all_or_nobody = False

    @property
    def is_new(self) -> bool:
        """Whether no send has used this book yet."""
        return not self._facts.keys

    @property
    def outcome(self) -> Outcome:
        """The worst of them; nothing was sent where there was nobody to send to."""
        if (fact := self._facts.common) is not None:
            return fact[0]
        outcomes: set[Outcome] = {fact[0] for fact in self._facts.all().values()}
        return max(outcomes, key=_WORST.index)

    def start(self, recipients: Iterable[str], *, all_or_nobody: bool = False) -> None:
        """A send begins: these recipients will be asked for, and nothing is known of them."""
        self._all_or_nobody = all_or_nobody
        self.receipt = self.error = self.login_failures = None
        self.finals = []
        self.again(recipients)

    def again(self, recipients: Iterable[str]) -> None:
        """These recipients will be asked for in another transaction of the same send."""
        self.epoch += 1
        self.phase = "waiting"
        self.bytes_sent = 0
        self.left_over = ()
        if self.is_new:
            self._facts.keys = tuple(recipients)
            return
        keys = tuple(recipients)
        assert not self.is_any("accepted", keys)
        assert not self.is_any("in_doubt", keys)
        self._facts.note(keys, _NOT_SENT)

    def refuse(self, recipients: Collection[str], reply: Reply) -> None:
        self._facts.note(recipients, ("refused", reply, 0))

    def hand_over(self, recipients: Collection[str]) -> None:
        """The end of the message is about to leave: from here on the server may have it."""
        self.phase = "reply"
        self._facts.note(recipients, ("in_doubt", None, self.epoch))

    def settle(self, recipients: Collection[str], reply: Reply) -> None:
        """The server's word on a message that it has."""
        self.finals.append(reply)
        outcome: Outcome = "accepted" if reply.code < 300 else "refused"
        self._facts.note(recipients, (outcome, reply, 0))

    def take_back(self, recipients: Iterable[str], epoch: int) -> None:
        """The server said, before it had taken the message of that epoch, that it would not."""
        self.learn(recipients, "not_sent", None, epoch)

    def accept(
        self, keys: Iterable[str], reply: Reply, octets: int, message_id: str | None, server: str
    ) -> None:
        """The whole of a send in one step, by a book that is new: the server has it for all."""
        self.epoch = 2
        self.phase = "done"
        self.bytes_sent = self.bytes_total = octets
        self.message_id = message_id
        self.finals.append(reply)
        self.server = server
        self._facts.keys, self._facts.common = tuple(keys), ("accepted", reply, 0)

    def receipt_now(self) -> Receipt:
        """What the transactions of this send have come to; there was one at least."""
        accepted, last = self.replies("accepted"), self.finals[-1]
        return Receipt(
            reply=last if last.code < 300 else next(filter(_is_positive, reversed(self.finals))),
            replies=tuple(self.finals),
            accepted=accepted,
            refused=self.replies("refused"),
            message_id=self.message_id,
            server=self.server,
        )

    def learn(
        self, recipients: Iterable[str], outcome: Outcome, reply: Reply | None, epoch: int
    ) -> None:
        """A reply that comes after the end of its send ends the doubt of its epoch.

        And one that says yes is believed of whoever was taken back: a server that took the message
        after all has it. It says nothing of what a next send has begun.
        """
        is_taken = outcome == "accepted" and self.phase == "done"
        for key in recipients:
            known, _, handed_over = self._facts.of(key)
            is_its_doubt = known == "in_doubt" and handed_over == epoch
            if is_its_doubt or (known == "not_sent" and is_taken):
                self._facts.note((key,), (outcome, reply, 0))

    def finish(self, end: Receipt | BaseException) -> None:
        self.epoch += 1
        self.phase = "done"
        if isinstance(end, Receipt):
            self.receipt = end
        else:
            self.error = end

    def replies(self, outcome: Outcome) -> dict[str, Reply]:
        """The recipients of which this is known, with the reply that says so."""
        facts = self._facts
        if facts.common is None:
            return {key: fact[1] for key, fact in facts.all().items() if fact[0] == outcome}
        known, reply, _ = facts.common
        return cast("Any", dict.fromkeys(facts.keys, reply)) if known == outcome else {}

    def keys(self, outcome: Outcome) -> tuple[str, ...]:
        """The recipients of which this is known."""
        return tuple(self.replies(outcome))

    def is_any(self, outcome: Outcome, recipients: Iterable[str]) -> bool:
        """Whether this is known of any of these."""
        return any(self._facts.of(key)[0] == outcome for key in recipients)

    def is_settled(self, recipients: Iterable[str]) -> bool:
        """Whether the server has taken the message for some of these, and refused the others."""
        outcomes = {self._facts.of(key)[0] for key in recipients}
        return "accepted" in outcomes and outcomes <= {"accepted", "refused"}

    def retry_keys(self) -> tuple[str, ...]:
        """Whom another attempt may reach; nobody if all cannot be reached and all must be."""
        refused = self.replies("refused")
        if self._all_or_nobody and any(reply.is_permanent for reply in refused.values()):
            return ()
        transient = {key for key, reply in refused.items() if reply.is_transient}
        may_be_reached = transient.union(self.keys("not_sent"))
        return tuple(key for key in self._facts.keys if key in may_be_reached)


class Delivery(Generic[K]):
    """A live view on one send: its progress, and whether it may be sent again after any end.

    Make one, pass it to a send, and keep it: cancellation cannot carry it to you. Passed to a
    second send of the same message it *resumes*: only `retry_recipients` are sent to, whoever else
    is named, with the same Message-ID; ValueError if there are none. One send at a time
    (RuntimeError).
    """

    key: K
    """Whatever the caller wants to know this message by."""

    @overload
    def __init__(self: Delivery[None]) -> None: ...
    @overload
    def __init__(self, *, key: K) -> None: ...
    def __init__(self, *, key: Any = None) -> None:
        self.key = key
        self._ledger = Ledger()

    @property
    def phase(self) -> Phase:
        """Where the send is; ``"done"`` after any end."""
        return self._ledger.phase

    @property
    def outcome(self) -> Outcome | None:
        """The worst of the recipients' outcomes; None while the send is under way.

        From best to worst: ``"accepted"``, ``"refused"``, ``"not_sent"`` (nothing was handed
        over), ``"in_doubt"`` (the end of the message left and its reply never came, so the server
        may have it: RFC 1047).
        """
        return self._ledger.outcome if self.phase == "done" else None

    @property
    def accepted(self) -> Mapping[str, Reply]:
        """The recipients for which the server has the message, and its reply."""
        return self._ledger.replies("accepted")

    @property
    def refused(self) -> Mapping[str, Reply]:
        """The recipients that the server refused, and its reply to each."""
        return self._ledger.replies("refused")

    @property
    def in_doubt(self) -> tuple[str, ...]:
        """The recipients for which the server may have the message: never sent to again."""
        return self._ledger.keys("in_doubt")

    @property
    def not_sent(self) -> tuple[str, ...]:
        """The recipients for which the server certainly does not have the message."""
        return self._ledger.keys("not_sent")

    @property
    def retry_recipients(self) -> tuple[str, ...]:
        """The recipients that another send may reach: not_sent, and refused with 4yz."""
        return self._ledger.retry_keys()

    @property
    def may_retry(self) -> bool:
        """Whether there are `retry_recipients`, and nothing says that trying again is vain."""
        return bool(self.retry_recipients) and not is_final(self._ledger.error)

    @property
    def message_id(self) -> str | None:
        """The Message-ID, once it is known; a resumed send keeps it."""
        return self._ledger.message_id

    @property
    def bytes_sent(self) -> int:
        """Octets of the message that were written in the current or last attempt."""
        return self._ledger.bytes_sent

    @property
    def bytes_total(self) -> int | None:
        """Octets of the message, once it is serialised."""
        return self._ledger.bytes_total

    def result(self) -> Receipt:
        """The Receipt, or the exception with which the send ended.

        A cancelled send raises SMTPException that says so. RuntimeError while it is under way.
        """
        ledger = self._ledger
        if ledger.receipt is not None:
            return ledger.receipt
        error = self.exception()
        if error is not None:
            raise error
        # It is seldom asked for, and nothing can change any more.
        ledger.receipt = ledger.receipt_now()
        return ledger.receipt

    def exception(self) -> BaseException | None:
        """The exception with which the send ended, if it did not end with a Receipt."""
        if self.phase != "done":
            raise RuntimeError("the send has not ended")
        return self._ledger.error

    def __repr__(self) -> str:
        key = "" if self.key is None else f" {self.key!r}"
        return f"<Delivery{key} {self.outcome or self.phase}>"


def _is_positive(reply: Reply) -> bool:
    return reply.is_positive


def ledger_of(delivery: Delivery[Any]) -> Ledger:
    """The book behind a Delivery, for the client to write in."""
    return delivery._ledger


def delivery_of(receipt: Receipt) -> Delivery[None]:
    """A Delivery that has come to this Receipt."""
    delivery = Delivery()
    ledger = delivery._ledger
    ledger.start((*receipt.accepted, *receipt.refused))
    for recipients in (receipt.accepted, receipt.refused):
        for key, reply in recipients.items():
            ledger.settle((key,), reply)
    ledger.message_id = receipt.message_id
    ledger.finish(receipt)
    return delivery


def cancelled(delivery: Delivery[Any] | None, outcome: Outcome) -> SMTPException:
    """What a Delivery raises after its send was cancelled: cancellation itself is not kept."""
    return SMTPException("the send was cancelled", delivery=delivery, outcome=outcome)
