"""What the behaviour tests stand on: servers, a cancellation harness, certificates.

- `anysmtp.testing` has the servers: one that does as the test says, and aiosmtpd; `bare` is a
  client to try the first one with, `threaded` puts it into a thread.
- `relay`: a link with a delay, between any client and any server.
- `cancel` and `leaks`: stop a coroutine at its k-th await, and see what it left behind.
- `postfix` and `dovecot`: servers that other people wrote.
- `twins`: a program run against an outbox and against a client, that have to come to the same.
- `tls`: a certificate authority, and contexts for everything that a test may want.
- `fixtures`: all of these as pytest fixtures.

The folder above is on the import path (`pythonpath` in pytest's settings), so a test says
``from support.clients import on_memory``. The kit proves itself in ``tests/support_tests``.
"""
