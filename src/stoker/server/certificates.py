"""The certificate of a server's TCP door: one that its user gave it, or one that it makes itself and keeps.

Clients pin the fingerprint of the latter, so its names and dates do not matter; it is made once and lives for long.
"""

from __future__ import annotations

import datetime
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import InvalidRequest, StokerError
from stoker.transport.tls import fingerprint_of

VALID_DAYS = 3650
OWN_FILE = "tls.pem"  # certificate and key


@dataclass(frozen=True)
class Certificate:
    """What a door shows, and how people tell it from others."""

    context: ssl.SSLContext
    fingerprint: str


def given_certificate(certificate: Path, key: Path | None) -> Certificate:
    """Return the certificate in a PEM file, with its chain; the key is beside it or in the same file.

    Raises:
        InvalidRequest: they cannot be read, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
        return Certificate(
            context, fingerprint_of(_first_der(certificate.read_text(encoding="ascii", errors="replace")))
        )
    except (OSError, ValueError) as error:
        beside = f" with its key {key}" if key else ""
        raise InvalidRequest(
            f"The certificate {certificate}{beside} cannot be used: {error}. --tls-cert and --tls-key are PEM files "
            "that belong together, and the key has no password."
        ) from None


def own_certificate(directory: Path) -> Certificate:
    """Return the certificate that this server made itself; it is made, with its key, where there is none.

    Raises:
        StokerError: it cannot be written down.
        InvalidRequest: what was kept cannot be read.
    """
    path = directory / OWN_FILE
    if not path.exists():
        partial = path.with_suffix(".partial")
        try:
            partial.unlink(missing_ok=True)
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(_made())
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            raise StokerError(f"The server's certificate could not be written to {path}: {error}.") from error
    return given_certificate(path, None)


def _made() -> bytes:
    """Return a new key and a certificate for it, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stoker")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _first_der(text: str) -> bytes:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    at = text.index(begin)
    return ssl.PEM_cert_to_DER_cert(text[at : text.index(end, at) + len(end)])


def _no_password() -> str:
    raise ValueError("the key is encrypted")
