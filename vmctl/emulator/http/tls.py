"""The emulator's TLS certificate, and the secret that its callers send as a bearer token.

Both are made once per home and readable by its owner alone. The certificate is self-signed and
valid for 127.0.0.1 only: a client that trusts just this file can talk to no other server.
"""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..machines.file_modes import make_folder, write_file

LIFETIME = timedelta(days=3650)
SECRET_BYTES = 32
_EARLIER = ("iap.pem", "iap.key", "iap.token", "door.pem", "door.key")  # of older versions


@dataclass(frozen=True, slots=True)
class Credentials:
    """The files, in a folder that only its owner can enter."""

    certificate: Path
    key: Path
    secret: Path

    @classmethod
    def ensure(cls, folder: Path) -> Credentials:
        """Make the files that are missing; OSError if the folder cannot be written."""
        made = cls(folder / "tls.pem", folder / "tls.key", folder / "secret")
        make_folder(folder)
        for name in _EARLIER:
            (folder / name).unlink(missing_ok=True)
        if not _has_secret(made.secret):
            write_file(made.secret, secrets.token_hex(SECRET_BYTES).encode() + b"\n")
        if not (made.certificate.exists() and made.key.exists()):
            key, certificate = _certify()
            write_file(made.key, key)
            write_file(made.certificate, certificate)
        for file in (made.certificate, made.key, made.secret):
            file.chmod(0o600)
        return made

    def read_secret(self) -> str:
        """Return the secret itself."""
        return self.secret.read_text(encoding="ascii").strip()


def _has_secret(file: Path) -> bool:
    try:
        return len(bytes.fromhex(file.read_text(encoding="ascii"))) == SECRET_BYTES
    except (OSError, ValueError):
        return False


def _certify() -> tuple[bytes, bytes]:
    """Return a new private key and its certificate, as PEM."""
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
    return private, made.public_bytes(pem)
