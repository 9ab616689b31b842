from __future__ import annotations

from email.message import EmailMessage, Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from threading import Barrier, Thread
from typing import Any

import pytest

from anysmtp._message import serialise, snapshot


def tree() -> EmailMessage:
    inner = EmailMessage()
    inner["Subject"] = "inner"
    inner.set_content("inner text")
    message = EmailMessage()
    message["Subject"] = "outer"
    message.set_content("text")
    message.add_alternative("<p>text", subtype="html")
    message.add_attachment(b"\x00" * 1000, "application", "octet-stream", filename="zeros")
    message.add_attachment(inner)
    return message


def legacy_tree() -> Message:
    message = MIMEMultipart()
    message["Subject"] = "outer"
    message.attach(MIMEText("text"))
    return message


def state(message: Message) -> Any:
    payload: Any = message.get_payload()
    if message.is_multipart():
        payload = [state(part) for part in payload]
    return type(message), list(message.raw_items()), payload, message.preamble, message.epilogue


@pytest.mark.parametrize("make", [tree, legacy_tree])
def test_a_snapshot_is_equal_and_of_the_same_classes(make: Any) -> None:
    original: Message = make()
    assert state(snapshot(original)) == state(original)


@pytest.mark.parametrize("make", [tree, legacy_tree])
def test_changes_of_the_original_do_not_reach_the_snapshot(make: Any) -> None:
    original: Message = make()
    copied = snapshot(original)
    before = state(copied)
    for part in list(original.walk()):
        part["X-Added"] = "x"
        del part["Subject"]
        part.replace_header("Content-Type", "text/html")
    first: Any = original.get_payload()
    first[0].set_payload("changed")
    first.append(Message())
    assert state(copied) == before


@pytest.mark.parametrize("make", [tree, legacy_tree])
def test_serialising_a_snapshot_does_not_write_to_the_original(make: Any) -> None:
    original: Message = make()
    before = state(original)
    del snapshot(original)["Subject"]
    snapshot(original).as_bytes()
    assert original.get_boundary() is None
    assert state(original) == before


def test_payloads_are_shared() -> None:
    message = Message()
    message.set_payload("x" * 1000)
    assert snapshot(message).get_payload() is message.get_payload()


def test_snapshots_of_one_message_are_serialised_in_threads_at_once() -> None:
    message = tree()
    barrier = Barrier(4)
    contents: list[bytes] = []

    def work() -> None:
        barrier.wait()
        contents.extend(b"".join(serialise(message).chunks()) for _ in range(20))

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({len(content) for content in contents}) == 1
    assert len(contents) == 80


def test_parts_that_are_no_messages_are_refused() -> None:
    message = MIMEMultipart()
    message.attach("text")
    with pytest.raises(TypeError, match=r"a message, and each part, .* not str"):
        snapshot(message)


def test_a_tree_that_is_too_deep_is_refused() -> None:
    message = MIMEMultipart()
    message.attach(message)
    with pytest.raises(ValueError, match="nested too deeply"):
        snapshot(message)


def test_a_class_that_says_how_it_is_copied_is_copied_like_that() -> None:
    class Counted(EmailMessage):
        copies = 0

        def __copy__(self) -> Counted:
            copied = Counted()
            copied.__dict__.update(self.__dict__)
            copied.copies = self.copies + 1
            return copied

    message = Counted()
    message["Subject"] = "x"
    copied = snapshot(message)
    assert isinstance(copied, Counted)
    assert (copied.copies, copied["Subject"]) == (1, "x")
    del copied["Subject"]
    assert message["Subject"] == "x"
