"""The keys of age's own: X25519 pairs and passphrases (https://c2sp.org/age, "Native recipient types").

A recipient wraps the key of a file into a stanza of its header; an identity takes it out again.
"""

from __future__ import annotations

import os
import re
from typing import Protocol

from memdump.errors import MemdumpError, NotADump, UsageError
from memdump.image import bech32
from memdump.image.age_header import FILE_KEY_SIZE, SCRYPT, Stanza, from_base64, hkdf, to_base64

X25519 = "X25519"
X25519_LABEL = b"age-encryption.org/v1/X25519"
SCRYPT_LABEL = b"age-encryption.org/v1/scrypt"
PUBLIC, SECRET = "age", "AGE-SECRET-KEY-"
"""What the two halves of a pair begin with, in Bech32."""

WORK_FACTOR = 18
"""The binary logarithm of scrypt's cost that age writes: a second, and 256 MB of memory for that second."""
MOST_WORK = 22
"""The most that age accepts, and 4 GB of memory."""

NONCE = bytes(12)
TAG_SIZE = 16


class Recipient(Protocol):
    """Whoever a file is encrypted to; `str` of it says who, and holds no secret."""

    def wrap(self, file_key: bytes) -> Stanza:
        """Make the stanza that only this recipient opens."""


class Identity(Protocol):
    """What opens files."""

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Take the file key out; nothing where the stanza is not for this identity.

        Raises `NotADump` where it is of the identity's kind and makes no sense.
        """


class X25519Recipient:
    """The public half of a pair, ``age1…``."""

    def __init__(self, public: bytes) -> None:
        self._public = public

    @classmethod
    def parse(cls, text: str) -> X25519Recipient:
        """Read ``age1…``; raises `ValueError` where it is none."""
        return cls(_decode(text, PUBLIC))

    def __str__(self) -> str:
        return bech32.encode(PUBLIC, self._public)

    def wrap(self, file_key: bytes) -> Stanza:
        """Wrap with what a fresh pair and this key have in common."""
        ephemeral = os.urandom(32)
        share = x25519_public(ephemeral)
        shared = x25519(ephemeral, self._public)
        if shared is None:
            raise UsageError(f"{self} is no key that anything can be encrypted to; ask for another")
        wrap_key = hkdf(shared, share + self._public, X25519_LABEL)
        return Stanza(X25519, (to_base64(share),), seal(wrap_key, file_key))


class X25519Identity:
    """The secret half of a pair, ``AGE-SECRET-KEY-1…``."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._public = x25519_public(secret)

    @classmethod
    def parse(cls, text: str) -> X25519Identity:
        """Read ``AGE-SECRET-KEY-1…``; raises `ValueError` where it is none."""
        return cls(_decode(text, SECRET))

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Try the stanza: it does not tell whom it is for."""
        if stanza.kind != X25519:
            return None
        (encoded,) = arguments(stanza, 1)
        share = from_base64(encoded, 32, "a recipient's share")
        check_body(stanza)
        shared = x25519(self._secret, share)
        if shared is None:
            raise NotADump("its age header is damaged: a recipient's share is no key; take another copy")
        return unseal(hkdf(shared, share + self._public, X25519_LABEL), stanza.body)


class Passphrase:
    """A passphrase, which is both: it must be a file's only recipient."""

    def __init__(self, text: str, work_factor: int = WORK_FACTOR) -> None:
        if not text:
            raise UsageError("a passphrase cannot be empty")
        self._text = text.encode()
        self._work_factor = work_factor

    def __str__(self) -> str:
        return "a passphrase"

    def wrap(self, file_key: bytes) -> Stanza:
        """Wrap with a key that is slow to make from the passphrase."""
        salt = os.urandom(16)
        wrap_key = self._key(salt, self._work_factor)
        return Stanza(SCRYPT, (to_base64(salt), str(self._work_factor)), seal(wrap_key, file_key))

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Try the passphrase; refuses to work for minutes because a header says so."""
        if stanza.kind != SCRYPT:
            return None
        encoded, work = arguments(stanza, 2)
        salt = from_base64(encoded, 16, "the salt of the passphrase")
        check_body(stanza)
        if re.fullmatch("[1-9][0-9]*", work) is None:
            raise NotADump("its age header is damaged: the work factor is no number; take another copy")
        if len(work) > 2 or int(work) > MOST_WORK:
            raise NotADump(
                f"asks for 2^{work:.6} rounds to try a passphrase; age refuses more than 2^{MOST_WORK}, too"
            )
        return unseal(self._key(salt, int(work)), stanza.body)

    def _key(self, salt: bytes, work_factor: int) -> bytes:
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        try:
            return Scrypt(SCRYPT_LABEL + salt, 32, 1 << work_factor, 8, 1).derive(self._text)
        except MemoryError:
            size = 1 << max(work_factor - 10, 0)
            raise MemdumpError(
                f"a passphrase takes {size} MB of memory here, which are not free; use a key instead"
            ) from None


def _decode(text: str, kind: str) -> bytes:
    found, data = bech32.decode(text)
    if found != kind or len(data) != 32:
        raise ValueError("it is a key of another kind")
    return data


def arguments(stanza: Stanza, count: int) -> tuple[str, ...]:
    """Give a stanza's arguments; raises `NotADump` where they are not as many as its kind has."""
    if len(stanza.arguments) != count:
        raise NotADump(
            f"its age header is damaged: {stanza.kind} has not {count} arguments; take another copy"
        )
    return stanza.arguments


def check_body(stanza: Stanza) -> None:
    """Refuse a wrapped key of another length before it is tried: else one body could fit many passphrases."""
    if len(stanza.body) != FILE_KEY_SIZE + TAG_SIZE:
        raise NotADump(
            f"its age header is damaged: a wrapped key has {len(stanza.body)} bytes; take another copy"
        )


def seal(wrap_key: bytes, file_key: bytes) -> bytes:
    """Encrypt a file key with a key that is used once."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(wrap_key).encrypt(NONCE, file_key, None)


def unseal(wrap_key: bytes, body: bytes) -> bytes | None:
    """Decrypt a file key; nothing where the key is another."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        return ChaCha20Poly1305(wrap_key).decrypt(NONCE, body, None)
    except InvalidTag:
        return None


def x25519(secret: bytes, public: bytes) -> bytes | None:
    """Give what two keys have in common; nothing where that is all zeros, and so no secret."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    try:
        return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return None


def x25519_public(secret: bytes) -> bytes:
    """The public half of a pair."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
