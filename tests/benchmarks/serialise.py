"""How long it takes to write a message object, and in how much memory, beside the email package.

``python tests/benchmarks/serialise.py`` prints the best of several rounds, in which the ways take
turns. Ours is measured until the last chunk is made, and together with what a send does before: the
envelope out of the header fields, and Date and Message-ID. A send does all at once if the message
is plain.
"""

from __future__ import annotations

import platform
import tracemalloc
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import SMTP
from functools import partial
from time import perf_counter

from anysmtp._message import (
    estimate_size,
    needs_utf8,
    prepare,
    read_plain,
    recipients_of,
    sender_of,
    serialise,
)

KIB = 1024
ROUNDS = 15
# How long one way is measured in one round, in seconds.
SHARE = 0.05


def small(size: int) -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = "A message of the benchmark"
    message["From"] = "Alice Sender <alice@example.com>"
    message["To"] = "bob@example.net"
    message["Date"] = "Sun, 22 Nov 2026 12:00:00 +0000"
    message["Message-ID"] = "<1234567890.1234567890@example.com>"
    message.set_content(("x" * 70 + "\n") * (size // 71))
    return message


def with_attachment(size: int) -> EmailMessage:
    message = small(200)
    # In base64 it has a third more.
    data = bytes(range(256)) * (size * 3 // 4 // 256)
    message.add_attachment(data, "application", "octet-stream", filename="data.bin")
    return message


def by_package(message: EmailMessage) -> int:
    return len(message.as_bytes(policy=SMTP))


def by_anysmtp(message: EmailMessage) -> int:
    return sum(map(len, serialise(message).chunks()))


def as_a_send_does(message: EmailMessage) -> int:
    plain = read_plain(message)
    if plain is None:
        return before_and_by_anysmtp(message)
    sender = plain.sender()
    plain.recipients()
    written = plain.written(sender, add_missing_headers=True)
    return before_and_by_anysmtp(message) if written is None else written[0].size


def before_and_by_anysmtp(message: EmailMessage) -> int:
    sender = sender_of(message)
    recipients_of(message)
    estimate_size(message)
    prepared = prepare(message, sender=sender).message
    return sum(map(len, serialise(prepared, utf8=needs_utf8(message)).chunks()))


WAYS: dict[str, Callable[[EmailMessage], int]] = {
    "as_bytes(policy=SMTP)": by_package,
    "serialise": by_anysmtp,
    "the same, with all before it": before_and_by_anysmtp,
    "the same, as a send does it": as_a_send_does,
}
MESSAGES = {
    "1 KiB of text": small(KIB),
    "100 KiB of text": small(100 * KIB),
    "100 KiB attached": with_attachment(100 * KIB),
    "10 MiB attached": with_attachment(10 * KIB * KIB),
}


def seconds(work: Callable[[], object]) -> float:
    """How long it takes, on average over a share of time."""
    done, start = 0, perf_counter()
    while (elapsed := perf_counter() - start) < SHARE or not done:
        work()
        done += 1
    return elapsed / done


def peak(work: Callable[[], object]) -> int:
    """Octets beside the message itself, at most."""
    work()
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def main() -> None:
    print(f"{platform.python_implementation()} {platform.python_version()}\n")
    print("| message | written by | time in µs | ratio | peak memory in KiB |")
    print("|---|---|---|---|---|")
    for title, message in MESSAGES.items():
        times: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(ROUNDS):
            for name, write in WAYS.items():
                times[name].append(seconds(partial(write, message)))
        slowest = min(times["as_bytes(policy=SMTP)"])
        for name, write in WAYS.items():
            best = min(times[name])
            memory = peak(partial(write, message)) / KIB
            print(f"| {title} | {name} | {best * 1e6:.1f} | {slowest / best:.1f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
