"""AUTH (RFC 4954): which mechanisms are tried, and one exchange of each.

Called by the holder of the channel's turn, under his clock, as the conversations of `_dialogue`
are. After a refusal the connection goes on; it is closed where the server breaks the rules of
the mechanism, or of base64, and where it asks on and on.

Refused means not tried again, so that no account is locked, with two exceptions: a reply that
says "not this mechanism" leads to the next one, and a token that was refused is replaced once by
the caller's ``refresh``. His ``token`` and ``refresh`` are awaited here, and are not timed. What
they raise is his, and passes through.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from anyio import to_thread

from . import _dialogue
from ._channel import Channel
from ._clock import Clock
from ._protocol import _commands
from ._protocol._commands import Command
from ._reply import Reply
from ._tls import channel_bindings
from .errors import SMTPAuthenticationError, SMTPException, SMTPProtocolError
from .sasl import Context, Exchange, Mechanism, TokenMechanism, choose

T = TypeVar("T")

# A login takes two or three rounds; a server that asks on and on is not to be humoured.
_MAX_CHALLENGES = 12
# RFC 4954 section 4: 504 and 534 say "not this mechanism"; after any other refusal another try
# with the same password would count against the account.
_TRY_ANOTHER = frozenset({504, 534})
# The same section: the credentials are not good.
_BAD_CREDENTIALS = 535


async def login(
    channel: Channel,
    clock: Clock,
    mechanisms: Sequence[Mechanism],
    *,
    allow_plaintext: bool,
) -> Reply:
    """Log in with the first mechanism that server and connection allow; the server's yes."""
    context = context_of(channel)
    error: SMTPException | None = None
    for mechanism in _usable(channel, mechanisms, context, allow_plaintext=allow_plaintext):
        attempt = _Attempt(channel, clock, mechanism, context)
        reply = await attempt.run()
        if reply.is_positive:
            return reply
        error = attempt.refusal(reply)
        if reply.code not in _TRY_ANOTHER or not channel.is_open:
            break
    assert error is not None
    raise error


def context_of(channel: Channel) -> Context:
    """What the mechanisms may know of the connection."""
    link = channel.link
    return Context(
        hostname=link.hostname,
        port=link.port,
        offered=channel.session.extensions.auth,
        channel_bindings=channel_bindings(link.stream),
    )


def _usable(
    channel: Channel, mechanisms: Sequence[Mechanism], context: Context, *, allow_plaintext: bool
) -> list[Mechanism]:
    """The mechanisms to try in turn; raises if there is none. Nothing is sent."""
    extensions = channel.session.extensions
    if not extensions.auth:
        later = ", before STARTTLS at least" if extensions.starttls else ""
        raise _impossible(channel, f"the server offers no login (AUTH){later}")
    offered = choose(mechanisms, context)
    if not offered:
        wanted = ", ".join(mechanism.name for mechanism in mechanisms)
        raise _impossible(
            channel, f"no mechanism in common: the server offers {_names(context)}, not {wanted}"
        )
    if allow_plaintext or channel.link.is_encrypted or channel.link.is_local:
        return offered
    if not (safe := [mechanism for mechanism in offered if not mechanism.needs_encryption]):
        raise _impossible(
            channel,
            f"the server offers {_names(context)}, and the login would cross the network "
            "unencrypted; tls= encrypts the connection, allow_plaintext_auth=True permits it",
        )
    return safe


class _Attempt:
    """One mechanism's login: one exchange, and for a token that was refused a second one."""

    def __init__(
        self, channel: Channel, clock: Clock, mechanism: Mechanism, context: Context
    ) -> None:
        self._channel = channel
        self._clock = clock
        self._mechanism = mechanism
        self._context = context
        self._exchange: Exchange | None = None

    async def run(self) -> Reply:
        """The server's last word."""
        mechanism = self._mechanism
        if not isinstance(mechanism, TokenMechanism):
            return await self._log_in()
        token, refresh = mechanism.token, mechanism.refresh
        reply = await self._log_in(
            token if isinstance(token, str) else await self._clock.untimed(token)
        )
        if refresh is None or not self._channel.is_open or not self._is_bad_token(reply):
            return reply
        return await self._log_in(await self._clock.untimed(refresh))

    def refusal(self, reply: Reply) -> SMTPException:
        """Why the login failed, with what the server offers."""
        mechanism, offers = self._mechanism, f"; the server offers {_names(self._context)}"
        if reply.code in _TRY_ANOTHER:
            message = f"the server does not take {mechanism.name} here{offers}"
        elif reply.code == _BAD_CREDENTIALS:
            message = f"the server refused the {mechanism.proof} ({mechanism.name}){offers}"
        else:
            message = f"the login with {mechanism.name} failed{offers}"
        details = None if self._exchange is None else self._exchange.details
        error = SMTPAuthenticationError(message, reply=reply, details=details)
        return _dialogue.located(error, self._channel, _commands.AUTH)

    def _is_bad_token(self, reply: Reply) -> bool:
        """Whether another token may do: 535, or whatever follows on an error challenge."""
        explained = self._exchange is not None and self._exchange.details is not None
        return not reply.is_positive and (reply.code == _BAD_CREDENTIALS or explained)

    async def _log_in(self, token: str | None = None) -> Reply:
        """One exchange; the server's last reply."""
        # In front of everything that is sent: a token may be no token at all.
        self._exchange = self._mechanism.start(replace(self._context, token=token))
        try:
            return await self._converse(self._exchange)
        except SMTPAuthenticationError as error:
            error.details = self._exchange.details
            await self._channel.break_off("the login was given up")
            raise _dialogue.located(error, self._channel, _commands.AUTH) from error.__cause__

    async def _converse(self, exchange: Exchange) -> Reply:
        initial = await _call(exchange, exchange.initial_response)
        command = _commands.auth(
            self._mechanism.name, None if initial is None else _encoded(initial)
        )
        # What does not fit the line of AUTH is asked for by a challenge of its own.
        left_out = None if command.is_secret else initial
        reply = await _dialogue.ask(self._channel, self._clock, command)
        for _ in range(_MAX_CHALLENGES):
            if not reply.is_intermediate:
                if reply.is_positive:
                    await _call(exchange, exchange.finish)
                return reply
            challenge = await self._challenge(reply)
            response = left_out
            if response is None:
                response = await _call(exchange, partial(exchange.step, challenge))
            left_out = None
            reply = await _dialogue.ask(self._channel, self._clock, _response(response))
        raise SMTPAuthenticationError(f"more than {_MAX_CHALLENGES} challenges")

    async def _challenge(self, reply: Reply) -> bytes:
        try:
            return b64decode(reply.text.strip(" "), validate=True)
        except ValueError as error:
            await self._channel.break_off("the server sent a challenge that is not base64")
            failure = SMTPProtocolError("a challenge that is not base64", reply=reply)
            raise _dialogue.located(failure, self._channel, _commands.AUTH) from error


async def _call(exchange: Exchange, step: Callable[[], T]) -> T:
    """One step, in a worker thread if it takes long.

    A thread that is left behind at a cancellation works on an exchange that nobody else has.
    """
    return await to_thread.run_sync(step, abandon_on_cancel=True) if exchange.is_slow else step()


def _response(response: bytes | None) -> Command:
    try:
        return _commands.auth_response("*" if response is None else _encoded(response))
    except ValueError as error:
        raise SMTPAuthenticationError(f"the response is too long: {error}") from None


def _encoded(response: bytes) -> str:
    return b64encode(response).decode()


def _names(context: Context) -> str:
    return " ".join(context.offered)


def _impossible(channel: Channel, message: str) -> SMTPException:
    return _dialogue.located(SMTPAuthenticationError(message), channel, _commands.AUTH)
