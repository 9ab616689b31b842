"""The fixtures of the pytest plugin, in this run and in one of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from anysmtp import SMTP, SMTPException, create_tls_context
from anysmtp.testing import AiosmtpdServer, Certificates, Outbox, ScriptedServer
from support.clients import RAW, email

pytest_plugins = ["pytester"]

A, B = "a@x.test", "b@x.test"


@pytest.mark.anyio
async def test_an_outbox_is_empty_at_first(smtp_outbox: Outbox) -> None:
    assert len(smtp_outbox) == 0
    await smtp_outbox.send_message(email())
    assert smtp_outbox[0].recipients == [B]


@pytest.mark.anyio
@pytest.mark.parametrize("is_on_memory", [True, False])
async def test_the_scripted_server_is_on_the_backend_of_the_test(
    smtp_server: ScriptedServer, is_on_memory: bool
) -> None:
    smtp_server.script[f"RCPT TO:<{B}>"] = "550 5.1.1 no"
    port = await smtp_server.listen()
    assert (smtp_server.host, smtp_server.port) == ("127.0.0.1", port)
    async with smtp_server.client() if is_on_memory else SMTP(smtp_server.host, port) as smtp:
        with pytest.raises(SMTPException, match=r"5\.1\.1 no"):
            await smtp.sendmail(A, B, RAW)
        receipt = await smtp.sendmail(A, [A, B], RAW)
    assert list(receipt.refused) == [B]
    assert smtp_server.messages[0].recipients == [A]


@pytest.mark.anyio
async def test_smtpd_takes_mail_after_starttls_and_a_login(smtpd: AiosmtpdServer) -> None:
    async with smtpd.client() as smtp:
        await smtp.sendmail(A, B, RAW)
    (sent,) = smtpd.messages
    assert (sent.raw, sent.tls, sent.username) == (RAW, True, "user")
    assert sent.accepted


@pytest.mark.anyio
async def test_smtpd_can_be_given_users_and_refusals_at_any_time(smtpd: AiosmtpdServer) -> None:
    smtpd.users["ann"] = "secret"
    smtpd.refuse[B] = "550 5.1.1 no"
    async with smtpd.client(username="ann", password="secret") as smtp:
        receipt = await smtp.sendmail(A, [A, B], RAW)
    assert list(receipt.refused) == [B]
    assert smtpd.messages[0].username == "ann"


@pytest.mark.anyio
async def test_a_server_can_have_tls_from_the_start(smtp_certificates: Certificates) -> None:
    with AiosmtpdServer(
        implicit_tls=smtp_certificates.server, tls_context=smtp_certificates.client
    ) as server:
        async with server.client() as smtp:
            await smtp.sendmail(A, B, RAW)
    assert server.messages[0].tls


@pytest.mark.anyio
async def test_a_server_can_be_without_tls() -> None:
    with AiosmtpdServer() as server:
        async with server.client() as smtp:
            await smtp.sendmail(A, B, RAW)
    assert not server.messages[0].tls


@pytest.mark.anyio
async def test_an_application_can_be_given_the_authority(
    smtpd: AiosmtpdServer, smtp_certificates: Certificates
) -> None:
    context = create_tls_context(cadata=smtp_certificates.pem)
    async with smtpd.client(tls_context=context) as smtp:
        await smtp.connect()


def test_the_certificates_are_good_for_other_names_too(smtp_certificates: Certificates) -> None:
    assert Certificates("relay.example.org").pem != smtp_certificates.pem


def modules_after(code: str, folder: Path) -> set[str]:
    """What a fresh interpreter has loaded by this code since its first line."""
    first, _, rest = code.partition("\n")
    lines = (first, "import sys; before = {*sys.modules}", rest, "print(*{*sys.modules} - before)")
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return {*ran.stdout.split()}


def test_the_plugin_loads_nothing_before_it_is_used(tmp_path: Path) -> None:
    loaded = modules_after("import pytest\nimport _anysmtp_pytest", tmp_path)
    assert loaded == {"_anysmtp_pytest"}


def test_the_kit_needs_no_other_package_before_it_is_used(tmp_path: Path) -> None:
    loaded = modules_after("import anyio\nimport anysmtp.testing", tmp_path)
    assert not {"trio", "aiosmtpd", "trustme", "pytest", "asyncio"} & loaded


SUITE = """
import anyio
import pytest

@pytest.fixture(params=[{backends}])
def anyio_backend(request):
    return request.param

@pytest.mark.anyio
async def test_a_client_that_breaks_the_rules(smtp_server):
    async with await smtp_server.connectable.connect() as stream:
        await stream.receive()
        await stream.send(b"NOOP\\n")
        await stream.receive()

@pytest.mark.anyio
async def test_a_test_that_fails(smtp_server):
    raise LookupError("its own")

@pytest.mark.anyio
async def test_a_test_that_waits_for_a_group_of_its_own(smtp_server):
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        group.cancel_scope.cancel()
"""


def test_what_breaks_the_rules_is_an_error_of_its_test(
    pytester: pytest.Pytester, anyio_backend_name: str
) -> None:
    pytester.makepyfile(SUITE.replace("{backends}", repr(anyio_backend_name)))
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*AssertionError: the client broke the rules:*"])
    result.stdout.fnmatch_lines(["*LookupError: its own"])
    result.stdout.no_fnmatch_line("E *ExceptionGroup*")
