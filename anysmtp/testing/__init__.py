"""For the tests of applications that send mail, and for those of anysmtp itself.

`Outbox` stands in for a client and keeps what was sent. `ScriptedServer` is a server that does as
the test says, under a real client. `AiosmtpdServer` is a real server in a thread. The pytest
fixtures ``smtp_outbox``, ``smtp_server`` and ``smtpd`` are one of each.
"""

from __future__ import annotations

from ._aiosmtpd import AiosmtpdServer
from ._certificates import Certificates
from ._outbox import Outbox
from ._records import Login, Sent, Transcript
from ._script import DEAF, DROP, RESET, STALL, Act, Answer
from ._scripted import DEFAULT_KEYWORDS, ScriptedServer

__all__ = [
    "Act",
    "AiosmtpdServer",
    "Answer",
    "Certificates",
    "DEAF",
    "DEFAULT_KEYWORDS",
    "DROP",
    "Login",
    "Outbox",
    "RESET",
    "STALL",
    "ScriptedServer",
    "Sent",
    "Transcript",
]
