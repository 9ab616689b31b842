"""What the behaviour tests stand on: servers, a cancellation harness, certificates.

- `scripted`: an SMTP server that does as the test says, on memory streams and on sockets, and
  writes down what it saw. It is made of `script`, `serverstate`, `session`, `wire`, `memory` and
  `records`; `bare` is a client to try it with.
- `relay`: a link with a delay, between any client and any server.
- `cancel` and `leaks`: stop a coroutine at its k-th await, and see what it left behind.
- `aiosmtpd_server` and `postfix`: servers that other people wrote.
- `tls`: a certificate authority, and contexts for everything that a test may want.
- `fixtures`: all of these as pytest fixtures.

The folder above is on the import path (`pythonpath` in pytest's settings), so a test says
``from support.scripted import ScriptedServer``. The kit proves itself in ``tests/support_tests``.
"""
