"""What age files begin with, and those in ASCII armour: base64 between two marked lines.

See https://c2sp.org/age, "ASCII armor".
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING

from memdump.errors import NotADump

if TYPE_CHECKING:
    from memdump.image.content import Content

FAMILY = b"age-encryption.org/"
"""What they begin with, in each version of age, unless they are in armour."""
BEGIN = b"-----BEGIN AGE ENCRYPTED FILE-----"
END = b"-----END AGE ENCRYPTED FILE-----"
COLUMNS = 64
MOST_SPACE = 1024
"""So much white space may stand before and behind, as age has it."""
LARGEST = 256 << 20
WAY_OUT = "sed '/^-----/d' FILE | base64 -d > FILE.age"


def is_age(content: Content | bytes) -> bool:
    """Whether a file is encrypted with age, by its first bytes."""
    return content[: len(FAMILY)] == FAMILY or is_armoured(content)


def is_armoured(content: Content | bytes) -> bool:
    """Whether it begins as armour does."""
    return content[: MOST_SPACE + len(BEGIN)].lstrip().startswith(BEGIN)


def remove_armour(content: Content | bytes) -> bytes:
    """Give the file that is in the armour, in memory; raises `NotADump` for all but the right spelling."""
    if len(content) > LARGEST:
        raise NotADump(
            f"is in ASCII armour, of which memdump reads {LARGEST >> 20} MB; remove it first: {WAY_OUT}"
        )
    text = content[: len(content)]
    stripped = text.strip()
    before = text.find(stripped)
    if max(before, len(text) - before - len(stripped)) >= MOST_SPACE:
        raise _damaged("there is too much white space around it")
    lines = re.split(rb"\r?\n", stripped)
    if len(lines) < 2 or lines[0] != BEGIN or lines[-1] != END:
        raise _damaged("its first or its last line is missing or changed")
    body = lines[1:-1]
    if any(len(line) != COLUMNS for line in body[:-1]) or any(
        not 0 < len(line) <= COLUMNS for line in body[-1:]
    ):
        raise _damaged("a line is of the wrong length")
    joined = b"".join(body)
    try:
        data = binascii.a2b_base64(joined, strict_mode=True)
    except binascii.Error:
        data = None
    if data is None or binascii.b2a_base64(data, newline=False) != joined:
        raise _damaged("it is not base64 as it must be written")
    return data


def _damaged(why: str) -> NotADump:
    return NotADump(f"its ASCII armour is damaged: {why}; take another copy")
