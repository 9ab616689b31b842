"""The clients that block: smtplib, with a thread for each connection, and Postfix's smtp-source."""

from __future__ import annotations

import smtplib
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from .machine import find_program
from .sink import HOST
from .task import Task, Unavailable
from .workloads import LOCAL_HOSTNAME, PASSWORD, SENDER, USERNAME


def with_smtplib(task: Task) -> None:
    if task.workload.is_first:
        with ExitStack() as stack, task.watch:
            session = stack.enter_context(_smtplib_session(task))
            session.starttls(context=task.tls_context)
            session.login(USERNAME, PASSWORD)
            session.send_message(task.messages[0])
            stack.pop_all()
        session.quit()
        return
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(_smtplib_session(task)) for _ in range(task.workload.connections)
        ]
        for session in sessions:
            _smtplib_send(task, session, iter(task.warm_up.messages))
        left = iter(task.messages)
        threads = [
            threading.Thread(target=_smtplib_send, args=(task, session, left))
            for session in sessions
        ]
        with task.watch:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()


def _smtplib_session(task: Task) -> smtplib.SMTP:
    if task.workload.tls == "implicit":
        return smtplib.SMTP_SSL(HOST, task.port, LOCAL_HOSTNAME, context=task.tls_context)
    return smtplib.SMTP(HOST, task.port, LOCAL_HOSTNAME)


def _smtplib_send(task: Task, session: smtplib.SMTP, left: Iterator[Any]) -> None:
    for message in left:
        if isinstance(message, bytes):
            session.sendmail(SENDER, task.recipients, message)
        elif len(task.recipients) > 1:
            session.send_message(message, SENDER, task.recipients)
        else:
            session.send_message(message)


def with_smtp_source(task: Task) -> None:
    """Postfix's own, a C program: it makes its messages itself, as bytes."""
    path = find_program("smtp-source")
    if path is None:
        raise Unavailable("smtp-source is not installed")
    workload = task.workload
    if workload.tls != "plain" or workload.delay:
        raise Unavailable("smtp-source has no TLS, and counts no round trips")
    # With the header that it adds, as large as the others' messages: base64 in lines of 76.
    size = workload.attachment * 137 // 100 + 871
    sizes = ["-l", str(size), "-r", str(workload.recipients)]
    counts = ["-s", str(workload.connections), "-m", str(task.count)]
    addresses = ["-f", SENDER, "-t", task.recipients[0], "-M", LOCAL_HOSTNAME]
    with task.watch:
        command = [path, "-d", *sizes, *counts, *addresses, f"{HOST}:{task.port}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
