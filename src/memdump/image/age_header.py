"""The header of an age file: its grammar, which has one spelling for each header, and its MAC.

``age-encryption.org/v1``, then for each recipient a stanza that holds the file key wrapped for it, then a MAC
that only the file key verifies (https://c2sp.org/age, "Header").
"""

from __future__ import annotations

import binascii
import hmac
import re
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import NotADump
from memdump.image.age_armour import FAMILY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdump.image.content import Content

INTRO = FAMILY + b"v1\n"
COLUMNS = 64
LARGEST = 1 << 20
"""The longest header that is read and written, in bytes: some 10,000 recipients."""

FILE_KEY_SIZE = 16
SCRYPT = "scrypt"
"""The kind of the stanza of a passphrase, which stands alone."""

ARGUMENTS = re.compile(rb"->((?: [!-~]+)+)")


class Stanza(NamedTuple):
    """The file key, wrapped for one recipient."""

    kind: str
    arguments: tuple[str, ...]
    body: bytes

    def encode(self) -> bytes:
        """The stanza as it stands in a header; the last line of a body is always short, and may be empty."""
        text = to_base64(self.body)
        lines = [text[at : at + COLUMNS] for at in range(0, len(text) + 1, COLUMNS)]
        return "\n".join([" ".join(["->", self.kind, *self.arguments]), *lines, ""]).encode()


class Header(NamedTuple):
    """What stands in front of the payload."""

    stanzas: tuple[Stanza, ...]
    authenticated: bytes
    """The text that the MAC is of."""
    mac: bytes
    size: int
    """How many bytes of the file it takes."""

    def verify(self, file_key: bytes) -> None:
        """Raise `NotADump` where the header is not the one that was written with this file key."""
        if not hmac.compare_digest(_mac(file_key, self.authenticated), self.mac):
            raise NotADump("its age header was changed since it was written; take another copy")


def encode_header(stanzas: Sequence[Stanza], file_key: bytes) -> bytes:
    """Write a header, with its MAC."""
    text = INTRO + b"".join(stanza.encode() for stanza in stanzas) + b"---"
    return text + b" " + to_base64(_mac(file_key, text)).encode() + b"\n"


def decode_header(content: Content | bytes) -> Header:
    """Read a header; raises `NotADump` where it departs from the grammar in the least."""
    text = content[:LARGEST]
    if not text.startswith(INTRO):
        first, _ = _line(text, 0)
        if first.startswith(FAMILY) and first + b"\n" != INTRO:
            version = first[len(FAMILY) :].decode("ascii", "backslashreplace")[:20]
            raise NotADump(f"is in version {version!r} of the age format, and memdump knows v1")
        raise _damaged("it does not begin as one does")
    at = len(INTRO)
    stanzas = []
    while text[at : at + 3] != b"---":
        stanza, at = _stanza(text, at)
        stanzas.append(stanza)
    line, end = _line(text, at)
    if line[3:4] != b" ":
        raise _damaged("its last line is none")
    mac = from_base64(line[4:], 32, "its MAC")
    if not stanzas:
        raise _damaged("it names no recipient")
    if len(stanzas) > 1 and any(stanza.kind == SCRYPT for stanza in stanzas):
        raise _damaged("a passphrase stands beside other recipients, so that it would prove nothing")
    return Header(tuple(stanzas), text[: at + 3], mac, end)


def _stanza(text: bytes, at: int) -> tuple[Stanza, int]:
    line, at = _line(text, at)
    found = ARGUMENTS.fullmatch(line)
    if found is None:
        raise _damaged("a recipient's first line makes no sense")
    kind, *arguments = found[1].decode("ascii").split(" ")[1:]
    body = bytearray()
    line = b"*" * COLUMNS
    while len(line) == COLUMNS:
        line, at = _line(text, at)
        if len(line) > COLUMNS:
            raise _damaged("a line is too long")
        body += from_base64(line, None, "a recipient's key")
    return Stanza(kind, tuple(arguments), bytes(body)), at


def _line(text: bytes, at: int) -> tuple[bytes, int]:
    end = text.find(b"\n", at)
    if end < 0:
        raise _damaged("it has no end")
    return text[at:end], end + 1


def to_base64(data: bytes) -> str:
    """Base64 without padding."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").decode("ascii")


def from_base64(text: bytes | str, size: int | None, what: str) -> bytes:
    """Decode base64 without padding, to `size` bytes; raises `NotADump` for all but the right spelling."""
    spelt = text.encode() if isinstance(text, str) else text
    try:
        data = binascii.a2b_base64(spelt + b"=" * (-len(spelt) % 4), strict_mode=True)
    except binascii.Error:
        data = None
    if data is None or to_base64(data).encode() != spelt or (size is not None and len(data) != size):
        raise _damaged(f"{what} is not written as it must be")
    return data


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """Derive 32 bytes: HKDF with SHA-256 (RFC 5869), whose second step is one block then."""
    return hmac.digest(hmac.digest(salt, key, "sha256"), info + b"\1", "sha256")


def _mac(file_key: bytes, text: bytes) -> bytes:
    return hmac.digest(hkdf(file_key, b"", b"header"), text, "sha256")


def _damaged(why: str) -> NotADump:
    return NotADump(f"its age header is damaged: {why}; take another copy")
