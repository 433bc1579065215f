"""What a user gives as recipients and identities: words, and the files of age and of OpenSSH."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from memdump.errors import MemdumpError, NotPermitted, UsageError
from memdump.image.age_armour import is_age
from memdump.image.age_content import AgeContent
from memdump.image.age_keys import Passphrase, X25519Identity, X25519Recipient
from memdump.image.age_ssh import parse_ssh_recipient, ssh_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memdump.image.age_keys import Identity, Recipient

LARGEST = 16 << 20
"""The longest file of keys that is read, as age has it."""
PEM = "-----BEGIN "
PUBLIC_WORDS = ("age1", "ssh-", "ecdsa-", "sk-")


def parse_recipients(words: Iterable[str]) -> list[Recipient]:
    """Make recipients of ``age1…``, ``ssh-ed25519 …``, ``ssh-rsa …``, and of files with one such a line.

    Raises `UsageError` where a word is neither, and where it is a private key.
    """
    return [found for word in words for found in _recipients(word)]


def load_identities(path: Path, ask: Callable[[str], str] | None = None) -> list[Identity]:
    """Read a file of age's private keys, or one private key of OpenSSH (ed25519 or RSA).

    Where the file is protected by a passphrase, `ask` is called with the words to ask for it.  Raises
    `UsageError` where the file holds no keys of use, `NotPermitted` where it cannot be read or opened.
    """
    data = _read(path)
    if is_age(data):
        data = _decrypted(path, data, ask)
    if data.lstrip().startswith(PEM.encode()):
        return [_ssh_identity(path, data, ask)]
    identities = [_identity(line, place) for place, line in _lines(path, data)]
    if not identities:
        raise UsageError(f"{path}: holds no private key; age-keygen -o FILE makes one")
    return identities


def _recipients(word: str) -> list[Recipient]:
    if word.startswith(PUBLIC_WORDS) or _is_secret(word):
        return [_recipient(word, _short(word))]
    if word.startswith("github:"):
        raise UsageError(f"{word}: save https://github.com/{word[7:]}.keys to a file, and give that")
    path = Path(word)
    try:
        data = _read(path)
    except UsageError:
        if "/" in word or path.exists():
            raise
        raise UsageError(
            f"{_short(word)}: is no recipient (age1…, ssh-ed25519 …, ssh-rsa …), and no file of them, either"
        ) from None
    if data.lstrip().startswith(PEM.encode()):
        raise UsageError(
            f"{path}: is a private key; give the public one, {path}.pub, and keep this one secret"
        )
    recipients = [_recipient(line, place) for place, line in _lines(path, data)]
    if not recipients:
        raise UsageError(f"{path}: names no recipient")
    return recipients


def _recipient(text: str, place: str) -> Recipient:
    """Read one recipient; a message does not repeat what may be a secret."""
    if _is_secret(text):
        raise UsageError(
            f"{place}: is a private key, which nobody may see; give the public key that belongs to it"
            " (age-keygen -y FILE shows it)"
        )
    kind = text.rpartition("1")[0]
    if kind.startswith(("age1pq", "age1tagpq")):
        raise UsageError(
            f"{place}: is a post-quantum recipient, which memdump does not know; give one of another kind"
        )
    if kind.startswith("age1"):
        raise UsageError(
            f"{place}: is for a plugin of age, which memdump does not run; give one of another kind"
        )
    try:
        return X25519Recipient.parse(text) if text.startswith("age1") else parse_ssh_recipient(text)
    except ValueError as error:
        raise UsageError(f"{place}: is no recipient: {error}") from None


def _identity(text: str, place: str) -> Identity:
    if text.startswith(PUBLIC_WORDS):
        raise UsageError(f"{place}: is a public key, which opens nothing; give the file of the private key")
    if text.startswith(("AGE-PLUGIN-", "AGE-SECRET-KEY-PQ-")):
        kind = "for a plugin of age" if text.startswith("AGE-PLUGIN-") else "a post-quantum key"
        raise UsageError(f"{place}: is {kind}, which memdump cannot use; decrypt with `age -d -i` first")
    try:
        return X25519Identity.parse(text)
    except ValueError as error:
        why = str(error) if _is_secret(text) else "those begin with AGE-SECRET-KEY-1"
        raise UsageError(f"{place}: is no private key of age: {why}") from None


def _ssh_identity(path: Path, data: bytes, ask: Callable[[str], str] | None) -> Identity:
    try:
        key = _load_private(path, data, None)
    except TypeError:  # what cryptography says of a protected key
        key = _load_private(path, data, _ask(path, ask).encode())
    identity = ssh_identity(key)
    if identity is None:
        raise UsageError(f"{path}: is a private key that age cannot use; it takes ed25519 and RSA keys")
    return identity


def _load_private(path: Path, data: bytes, passphrase: bytes | None) -> object:
    from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    openssh = b"-----BEGIN OPENSSH PRIVATE KEY-----" in data
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    try:
        return load(data, passphrase)
    except UnsupportedAlgorithm as error:
        if "bcrypt" not in str(error):
            raise UsageError(f"{path}: is a private key that age cannot use: {error}") from None
        raise MemdumpError(
            f"{path}: opening it with its passphrase needs the Python package bcrypt: pip install bcrypt"
        ) from None
    except (TypeError, ValueError, InvalidTag) as error:
        if passphrase is not None:
            raise NotPermitted(f"{path}: the passphrase is wrong, or the private key is damaged") from None
        if isinstance(error, TypeError):
            raise
        raise UsageError(f"{path}: the private key is damaged, or is no private key") from None


def _decrypted(path: Path, data: bytes, ask: Callable[[str], str] | None) -> bytes:
    """Open a file of private keys that age encrypted with a passphrase."""
    content = AgeContent(_Bytes(data), [Passphrase(_ask(path, ask))], name=path)
    return content[: len(content)]


class _Bytes(bytes):
    """Bytes as the content of a file."""

    __slots__ = ()

    def close(self) -> None:
        """There is no file to close."""


def _ask(path: Path, ask: Callable[[str], str] | None) -> str:
    if ask is None:
        raise NotPermitted(f"{path}: is protected by a passphrase, and there is no terminal to ask for it")
    text = ask(f"Passphrase of {path}: ")
    if not text:
        raise NotPermitted(f"{path}: is protected by a passphrase, and none was given")
    return text


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except PermissionError:
        raise NotPermitted(f"{path}: may not be read by this user") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > LARGEST:
        raise UsageError(f"{path}: is too long for a file of keys; give the file of the keys")
    return data


def _lines(path: Path, data: bytes) -> Iterator[tuple[str, str]]:
    """Give what is neither empty nor a comment, and where it stands."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is no file of keys: it is not text") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield f"{path}: line {number}", line.strip()


def _is_secret(text: str) -> bool:
    return text.upper().startswith(("AGE-SECRET-KEY-", "AGE-PLUGIN-"))


def _short(word: str) -> str:
    """As much of a word as shows which one is meant, and gives no secret away."""
    return word if len(word) <= 20 else f"{word[:16]}…"
