"""The payload of an age file (https://c2sp.org/age, "Payload").

Behind 16 random bytes come chunks of 64 KiB, each encrypted and authenticated for itself and for its number;
the last one is marked as such, so that neither a changed, moved, foreign nor missing chunk goes unnoticed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memdump.image.age_header import hkdf
from memdump.image.age_keys import TAG_SIZE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

CHUNK = 64 << 10
SEALED = CHUNK + TAG_SIZE
NONCE_SIZE = 16

BATCH = 16
"""Chunks that a thread takes at a time."""
MOST_THREADS = 4


def payload_cipher(file_key: bytes, nonce: bytes) -> ChaCha20Poly1305:
    """The cipher of one file's chunks."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(hkdf(file_key, nonce, b"payload"))


def chunk_nonce(number: int, final: bool) -> bytes:
    """What is different for each chunk: its number, and whether it is the last one."""
    return (number << 8 | final).to_bytes(12, "big")


def threads() -> int:
    """How many threads to work with: the cipher lets others run meanwhile."""
    return min(os.cpu_count() or 1, MOST_THREADS)
