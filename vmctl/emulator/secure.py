"""TLS in front of the emulator's port, because gcloud speaks to Google's proxy over nothing else.

Its certificate is made once per home and is good for 127.0.0.1 only; who wants to check it is
told where it lies. Beside it lies a token that gcloud can send: it sends nothing without one, and
nobody looks at it. Behind the door are the same paths as in the clear.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

LIFETIME = timedelta(days=3650)
CHUNK = 65536


@contextlib.asynccontextmanager
async def door(certificate: Path, port: int) -> AsyncIterator[int]:
    """Serve TLS on a free port of 127.0.0.1 for what answers at `port`; yields that free port."""
    _ensure(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, _key_of(certificate))
    going: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        going.add(task)
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            there = asyncio.create_task(_pump(reader, inner_writer))
            await _pump(inner_reader, writer)
            there.cancel()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            going.discard(task)
            writer.close()

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in going:
            task.cancel()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the reader's end, then close the writer."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def token_of(certificate: Path) -> Path:
    """The file with a token for gcloud."""
    return certificate.with_suffix(".token")


def _key_of(certificate: Path) -> Path:
    return certificate.with_suffix(".key")


def _ensure(certificate: Path) -> None:
    """Make a certificate for 127.0.0.1 that nobody else has signed, unless it is there."""
    certificate.parent.mkdir(parents=True, exist_ok=True)
    if not token_of(certificate).exists():
        _write(token_of(certificate), b"local\n")
    if certificate.exists() and _key_of(certificate).exists():
        return
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vmctl emulator")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(_key_of(certificate), private)
    _write(certificate, made.public_bytes(pem))


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    part.replace(path)
