"""SSH keys as age's recipients and identities: ed25519 and RSA (specified by age's package ``agessh``).

Other than age's own, they say in the header whose they are: by four bytes of the SHA-256 of the public key.
"""

from __future__ import annotations

import binascii
import hashlib
import os
from typing import TYPE_CHECKING

from memdump.errors import NotADump, UsageError
from memdump.image.age_header import Stanza, from_base64, hkdf, to_base64
from memdump.image.age_keys import arguments, check_body, seal, unseal, x25519, x25519_public

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.padding import OAEP
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

    from memdump.image.age_keys import Identity, Recipient

ED25519, RSA = "ssh-ed25519", "ssh-rsa"
ED25519_LABEL = b"age-encryption.org/v1/ssh-ed25519"
RSA_LABEL = b"age-encryption.org/v1/ssh-rsa"
SMALLEST_RSA = 2048

FIELD = 2**255 - 19
CURVE = -121665 * pow(121666, -1, FIELD) % FIELD
"""The prime and the constant ``d`` of edwards25519 (RFC 8032)."""


def parse_ssh_recipient(line: str) -> Recipient:
    """Read a public key as it stands in ``id_ed25519.pub``; raises `ValueError` where age cannot use it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    kind, _, rest = line.partition(" ")
    if kind not in (ED25519, RSA):
        raise ValueError("age encrypts to ssh-ed25519 and ssh-rsa keys, and to no other of SSH's")
    try:
        key = load_ssh_public_key(line.encode())
        wire = binascii.a2b_base64(rest.split()[0])
    except (ValueError, IndexError, UnsupportedAlgorithm):
        raise ValueError("it is damaged: take the whole line of the .pub file") from None
    if isinstance(key, RSAPublicKey):
        if key.key_size < SMALLEST_RSA:
            raise ValueError(
                f"its {key.key_size} bits are too few to be safe; age takes {SMALLEST_RSA} and more"
            )
        return RsaRecipient(wire, key)
    if isinstance(key, Ed25519PublicKey):
        return Ed25519Recipient(wire, montgomery(key.public_bytes_raw()))
    raise ValueError("it is not of the kind that it says it is")


def ssh_identity(key: object) -> Identity | None:
    """Make an identity of a private key of `cryptography`; nothing where it is of a kind that age has not."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    if isinstance(key, Ed25519PrivateKey):
        return Ed25519Identity(key)
    if isinstance(key, RSAPrivateKey):
        return RsaIdentity(key)
    return None


class Ed25519Recipient:
    """An ``ssh-ed25519`` key, turned into one that X25519 takes."""

    def __init__(self, wire: bytes, public: bytes) -> None:
        self._wire = wire
        self._public = public

    def __str__(self) -> str:
        return _line(ED25519, self._wire)

    def wrap(self, file_key: bytes) -> Stanza:
        """Wrap as for X25519, and bind it to the SSH key itself."""
        ephemeral = os.urandom(32)
        share = x25519_public(ephemeral)
        wrap_key = _wrap_key(ephemeral, self._public, share + self._public, self._wire)
        if wrap_key is None:
            raise UsageError(f"{self} is no key that anything can be encrypted to; ask for another")
        return Stanza(ED25519, (_tag(self._wire), to_base64(share)), seal(wrap_key, file_key))


class Ed25519Identity:
    """An ed25519 private key of SSH."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._wire = _wire(key)
        self._secret = hashlib.sha512(key.private_bytes_raw()).digest()[:32]
        self._public = x25519_public(self._secret)

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Open the stanza that carries this key's tag."""
        if stanza.kind != ED25519:
            return None
        tag, encoded = arguments(stanza, 2)
        share = from_base64(encoded, 32, "a recipient's share")
        if tag != _tag(self._wire):
            return None
        check_body(stanza)
        wrap_key = _wrap_key(self._secret, share, share + self._public, self._wire)
        return _opened(wrap_key and unseal(wrap_key, stanza.body))


class RsaRecipient:
    """An ``ssh-rsa`` key."""

    def __init__(self, wire: bytes, key: RSAPublicKey) -> None:
        self._wire = wire
        self._key = key

    def __str__(self) -> str:
        return _line(RSA, self._wire)

    def wrap(self, file_key: bytes) -> Stanza:
        """Encrypt with OAEP."""
        return Stanza(RSA, (_tag(self._wire),), self._key.encrypt(file_key, _padding()))


class RsaIdentity:
    """An RSA private key of SSH."""

    def __init__(self, key: RSAPrivateKey) -> None:
        self._wire = _wire(key)
        self._key = key

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Open the stanza that carries this key's tag."""
        if stanza.kind != RSA:
            return None
        (tag,) = arguments(stanza, 1)
        if tag != _tag(self._wire):
            return None
        try:
            return self._key.decrypt(stanza.body, _padding())
        except ValueError:
            return _opened(None)


def montgomery(public: bytes) -> bytes:
    """Take a point of edwards25519 to Curve25519 (RFC 7748, 4.1); raises `ValueError` where it is none."""
    y = int.from_bytes(public, "little") & (1 << 255) - 1
    square = (y * y - 1) * pow(CURVE * y * y + 1, -1, FIELD)
    if pow(square, (FIELD - 1) // 2, FIELD) not in (0, 1) or y % FIELD == 1:
        raise ValueError("it is no point of the curve, so that nobody has the private key")
    return ((1 + y) * pow(1 - y, -1, FIELD) % FIELD).to_bytes(32, "little")


def _wrap_key(secret: bytes, public: bytes, salt: bytes, wire: bytes) -> bytes | None:
    shared = x25519(secret, public)
    tweaked = shared and x25519(hkdf(b"", wire, ED25519_LABEL), shared)
    return tweaked and hkdf(tweaked, salt, ED25519_LABEL)


def _opened(file_key: bytes | None) -> bytes:
    if file_key is None:
        raise NotADump(
            "its age header is damaged: it has this SSH key's tag and does not open; take another copy"
        )
    return file_key


def _padding() -> OAEP:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP

    return OAEP(MGF1(hashes.SHA256()), hashes.SHA256(), RSA_LABEL)


def _wire(key: Ed25519PrivateKey | RSAPrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return binascii.a2b_base64(line.split()[1])


def _tag(wire: bytes) -> str:
    return to_base64(hashlib.sha256(wire).digest()[:4])


def _line(kind: str, wire: bytes) -> str:
    return f"{kind} {binascii.b2a_base64(wire, newline=False).decode()}"
