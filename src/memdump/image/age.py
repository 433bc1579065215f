"""age v1 (https://c2sp.org/age), as others use it: a layer that is written, one that is read, and keys."""

from memdump.image.age_armour import is_age
from memdump.image.age_content import AgeContent, wants_passphrase
from memdump.image.age_files import load_identities, parse_recipients
from memdump.image.age_keys import Identity, Passphrase, Recipient
from memdump.image.age_writer import AgeWriter

__all__ = [
    "AgeContent",
    "AgeWriter",
    "Identity",
    "Passphrase",
    "Recipient",
    "is_age",
    "load_identities",
    "parse_recipients",
    "wants_passphrase",
]
