"""GSSAPI and GSS-SPNEGO with a real ticket, against Dovecot."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from anysmtp import SMTP, SMTPAuthenticationError, sasl
from support.bench import RECIPIENTS, message
from support.dovecot import Dovecot, why_not
from support.kerberos import HOSTNAME, USER, Kerberos
from support.kerberos import why_not as why_no_kerberos
from support.tls import Certificates

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def kerberos() -> Iterator[Kerberos]:
    """A realm that this process is in; skipped where the packages for it are missing."""
    reason = why_not() or why_no_kerberos()
    if importlib.util.find_spec("gssapi") is None or importlib.util.find_spec("krb5") is None:
        reason = reason or "pyspnego[kerberos] is not installed"
    if not Path("/usr/lib/dovecot/modules/auth/libmech_gssapi.so").exists():
        reason = reason or "Dovecot has no GSSAPI here"
    if reason:
        pytest.skip(reason)
    with Kerberos() as realm, pytest.MonkeyPatch.context() as patch:
        for name, value in realm.environment.items():
            patch.setenv(name, value)
        yield realm


@pytest.fixture(scope="module")
def dovecot(kerberos: Kerberos, certificates: Certificates) -> Iterator[Dovecot]:
    with Dovecot(
        certificates.server_file,
        certificates.cafile,
        {},
        mechanisms=("gssapi", "gss-spnego"),
        more={
            "auth_krb5_keytab": str(kerberos.keytab),
            "auth_gssapi_hostname": '"$ALL"',
            "import_environment": " ".join(
                f"{name}={value}" for name, value in kerberos.environment.items()
            ),
        },
    ) as server:
        yield server


def client(dovecot: Dovecot, certificates: Certificates, auth: sasl.Mechanism) -> SMTP:
    return SMTP(
        "127.0.0.1",
        dovecot.ports["submissions"],
        tls="implicit",
        tls_context=certificates.client,
        auth=auth,
    )


@pytest.mark.parametrize("authzid", ["", USER])
async def test_a_ticket_logs_in(authzid: str, dovecot: Dovecot, certificates: Certificates) -> None:
    auth = sasl.Gssapi(hostname=HOSTNAME, authzid=authzid)
    async with client(dovecot, certificates, auth) as smtp:
        await smtp.sendmail("a@x.test", RECIPIENTS, message("hello"))
    assert dovecot.relay.messages


async def test_a_ticket_logs_in_by_gss_spnego(dovecot: Dovecot, certificates: Certificates) -> None:
    auth = sasl.Spnego(hostname=HOSTNAME)
    async with client(dovecot, certificates, auth) as smtp:
        await smtp.sendmail("a@x.test", RECIPIENTS, message("hello"))


async def test_a_service_that_there_is_no_ticket_for_is_an_error(
    dovecot: Dovecot, certificates: Certificates
) -> None:
    auth = sasl.Gssapi(hostname="elsewhere.example.test")
    async with client(dovecot, certificates, auth) as smtp:
        with pytest.raises(SMTPAuthenticationError, match=r"GSSAPI: .*not found in Kerberos"):
            await smtp.connect()


async def test_without_a_ticket_there_is_no_login(
    dovecot: Dovecot, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "KRB5CCNAME", f"FILE:{tmp_path}/none")
    async with client(dovecot, certificates, sasl.Gssapi(hostname=HOSTNAME)) as smtp:
        with pytest.raises(SMTPAuthenticationError, match="GSSAPI: "):
            await smtp.connect()
