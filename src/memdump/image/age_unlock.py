"""How the identities at hand open a header, and what to say where they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memdump.errors import NotADump, NotPermitted
from memdump.image.age_header import FILE_KEY_SIZE, SCRYPT
from memdump.image.age_keys import X25519, Passphrase
from memdump.image.age_ssh import ED25519, RSA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdump.image.age_header import Header, Stanza
    from memdump.image.age_keys import Identity

MOST_TOLD = 6
"""Recipients that a message names."""


def unlock(header: Header, identities: Sequence[Identity]) -> bytes:
    """Take the file key out of a header, and let it prove that the header is as it was written.

    Raises `NotPermitted` where none of the identities opens it, `NotADump` where it was changed.
    """
    for identity in identities:
        for stanza in header.stanzas:
            file_key = identity.unwrap(stanza)
            if file_key is None:
                continue
            if len(file_key) != FILE_KEY_SIZE:
                raise NotADump("its age header is damaged: its key is of the wrong length; take another copy")
            header.verify(file_key)
            return file_key
    raise NotPermitted(_why_closed(header, identities))


def _why_closed(header: Header, identities: Sequence[Identity]) -> str:
    passphrases = sum(isinstance(identity, Passphrase) for identity in identities)
    if header.stanzas[0].kind == SCRYPT:
        if passphrases:
            return "the passphrase is wrong"
        return "it is encrypted with a passphrase, which no key replaces; give the passphrase"
    for_whom = f"it is encrypted to {_recipients(header)}"
    if not identities:
        return f"{for_whom}; give the file of the private key"
    if passphrases == len(identities):
        return f"a passphrase does not open it; {for_whom}; give the file of the private key"
    return f"none of the identities opens it; {for_whom}"


def _recipients(header: Header) -> str:
    """Say what the header tells of its recipients: of age's own keys, no more than how many there are."""
    told = []
    for kind in dict.fromkeys(stanza.kind for stanza in header.stanzas):
        stanzas = [stanza for stanza in header.stanzas if stanza.kind == kind]
        if kind == X25519:
            told.append("an age key" if len(stanzas) == 1 else f"{len(stanzas)} age keys")
        elif kind in (ED25519, RSA):
            told += [f"the {kind} key {_fingerprint(stanza)}" for stanza in stanzas]
        elif not kind.endswith("-grease"):  # put in by some writers, so that readers learn to ignore it
            told.append(f"something of type {kind[:40]!r} that memdump cannot open")
    more = [f"{len(told) - MOST_TOLD} more"] if len(told) > MOST_TOLD else []
    return ", ".join([*told[:MOST_TOLD], *more]) or "nobody"


def _fingerprint(stanza: Stanza) -> str:
    """What ssh-keygen -l shows of a key begins so: age's tag is the first 32 bits of the same digest."""
    tag = "".join(stanza.arguments[:1])
    return f"SHA256:{tag[:5]}…"
