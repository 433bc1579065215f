"""age and pyrage open what memdump seals, and memdump opens what they seal."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

from memdump.errors import NotPermitted
from memdump.image.age import AgeWriter, Passphrase, load_identities, parse_recipients

from .conftest import tool
from .sealed import CHUNK, Key, on_terminal, plaintext, run, seal, unseal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 16 * CHUNK, 16 * CHUNK + 1, 5_000_000]
KINDS = ["age", "ed25519", "rsa"]
WORDS = "correct horse battery staple"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Key]:
    """A key pair of each kind, and a second one of age's."""
    folder = tmp_path_factory.mktemp("keys")
    found = {}
    for name in ("age", "other"):
        path = folder / name
        run(tool("age-keygen", "apt install age"), "-o", path)
        found[name] = Key(run("age-keygen", "-y", path).decode().strip(), path)
    for name, bits in (("ed25519", "256"), ("rsa", "3072")):
        path = folder / name
        run(tool("ssh-keygen", "apt install openssh-client"), "-qt", name, "-b", bits, "-N", "", "-f", path)
        found[name] = Key((folder / f"{name}.pub").read_text().strip(), path)
    return found


@pytest.fixture(scope="session")
def pyrage() -> Any:
    return pytest.importorskip("pyrage", reason="pip install pyrage: another implementation of age")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_age_opens_what_memdump_seals(keys: dict[str, Key], kind: str, size: int) -> None:
    data = plaintext(size)
    sealed = seal(data, parse_recipients([keys[kind].recipient]))
    assert run("age", "-d", "-i", keys[kind].path, data=sealed) == data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_memdump_opens_what_age_seals(keys: dict[str, Key], kind: str, size: int) -> None:
    data = plaintext(size)
    sealed = run("age", "-r", keys[kind].recipient, data=data)
    assert unseal(sealed, load_identities(keys[kind].path)) == data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_pyrage_and_memdump_open_each_other(pyrage: Any, keys: dict[str, Key], kind: str, size: int) -> None:
    data = plaintext(size)
    key = keys[kind]
    if kind == "age":
        secret = key.path.read_text().splitlines()[-1]
        recipient, identity = (
            pyrage.x25519.Recipient.from_str(key.recipient),
            pyrage.x25519.Identity.from_str(secret),
        )
    else:
        recipient = pyrage.ssh.Recipient.from_str(key.recipient)
        identity = pyrage.ssh.Identity.from_buffer(key.path.read_bytes())
    assert pyrage.decrypt(seal(data, parse_recipients([key.recipient])), [identity]) == data
    assert unseal(pyrage.encrypt(data, [recipient]), load_identities(key.path)) == data


def test_each_of_several_opens_it(keys: dict[str, Key], tmp_path: Path) -> None:
    data = plaintext(CHUNK + 5)
    listed = tmp_path / "recipients"
    rest = [keys[name].recipient for name in ("ed25519", "rsa", "other")]
    listed.write_text("# who may see it\n\n" + "\n".join(rest) + "\n")
    sealed = seal(data, parse_recipients([keys["age"].recipient, str(listed)]))
    by_age = run("age", "-r", keys["age"].recipient, "-R", listed, data=data)
    for key in keys.values():
        assert run("age", "-d", "-i", key.path, data=sealed) == data
        assert unseal(by_age, load_identities(key.path)) == data


def test_one_of_several_identities_is_enough(keys: dict[str, Key], tmp_path: Path) -> None:
    identities = tmp_path / "identities"
    identities.write_text("".join(keys[name].path.read_text() for name in ("other", "age")))
    sealed = run("age", "-r", keys["age"].recipient, data=b"found")
    assert unseal(sealed, load_identities(identities)) == b"found"


def test_a_recipient_says_who_it_is(keys: dict[str, Key]) -> None:
    told = [str(recipient) for recipient in parse_recipients(key.recipient for key in keys.values())]
    assert told == [" ".join(key.recipient.split()[:2]) for key in keys.values()]


def test_pyrage_and_memdump_know_the_same_passphrase(pyrage: Any) -> None:
    data = plaintext(CHUNK)
    assert pyrage.passphrase.decrypt(seal(data, [Passphrase(WORDS, work_factor=10)]), WORDS) == data
    assert unseal(pyrage.passphrase.encrypt(data, WORDS), [Passphrase(WORDS)]) == data


def test_age_and_memdump_know_the_same_passphrase(tmp_path: Path) -> None:
    age = tool("age", "apt install age")
    data = plaintext(CHUNK + 1)
    plain, ours, theirs, back = (tmp_path / name for name in ("plain", "ours", "theirs", "back"))
    plain.write_bytes(data)
    ours.write_bytes(seal(data, [Passphrase("pässword")]))
    on_terminal([age, "-d", "-o", str(back), str(ours)], ["pässword".encode()])
    assert back.read_bytes() == data
    on_terminal([age, "-p", "-o", str(theirs), str(plain)], ["pässword".encode()] * 2)
    assert unseal(theirs.read_bytes(), [Passphrase("wrong"), Passphrase("pässword")]) == data


@pytest.mark.parametrize("size", [0, 1, CHUNK, 200_000])
@pytest.mark.parametrize("change", [lambda text: text, lambda text: b"\n " + text.replace(b"\n", b"\r\n")])
def test_armour_of_age_is_taken_off(
    keys: dict[str, Key], size: int, change: Callable[[bytes], bytes]
) -> None:
    data = plaintext(size)
    sealed = run("age", "-a", "-r", keys["age"].recipient, data=data)
    assert unseal(change(sealed), load_identities(keys["age"].path)) == data


@pytest.mark.parametrize("armoured", [False, True])
def test_identities_that_age_encrypted(
    pyrage: Any, keys: dict[str, Key], tmp_path: Path, armoured: bool
) -> None:
    path = tmp_path / "identities.age"
    path.write_bytes(pyrage.passphrase.encrypt(keys["age"].path.read_bytes(), WORDS, armored=armoured))
    asked = []

    def ask(words: str) -> str:
        asked.append(words)
        return WORDS

    sealed = run("age", "-r", keys["age"].recipient, data=b"opened")
    assert unseal(sealed, load_identities(path, ask)) == b"opened"
    assert len(asked) == 1
    assert str(path) in asked[0]


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
@pytest.mark.parametrize("form", ["-mRFC4716", "-mPEM", "-Zaes256-gcm@openssh.com"])
def test_a_protected_key_of_ssh(keys: dict[str, Key], tmp_path: Path, kind: str, form: str) -> None:
    pytest.importorskip("bcrypt", reason="pip install bcrypt: OpenSSH protects its keys with it")
    path = tmp_path / kind
    path.write_bytes(keys[kind].path.read_bytes())
    path.chmod(0o600)
    run("ssh-keygen", "-qp", form, "-P", "", "-N", WORDS, "-f", path)
    with pytest.raises(NotPermitted, match="the passphrase is wrong"):
        load_identities(path, lambda _: "wrong")
    sealed = run("age", "-r", keys[kind].recipient, data=b"opened")
    assert unseal(sealed, load_identities(path, lambda _: WORDS)) == b"opened"


@pytest.mark.parametrize("step", [1, 1000, CHUNK, 3_000_000])
def test_it_does_not_matter_how_it_is_written(keys: dict[str, Key], step: int) -> None:
    data = plaintext(200_000 if step == 1 else 3_000_000)
    sealed = seal(data, parse_recipients([keys["age"].recipient]), step)
    assert run("age", "-d", "-i", keys["age"].path, data=sealed) == data


def test_what_was_written_may_change_afterwards(keys: dict[str, Key]) -> None:
    data = plaintext(3_000_000)
    stream = io.BytesIO()
    writer = AgeWriter(stream, parse_recipients([keys["age"].recipient]))
    buffer = bytearray(300_000)
    for at in range(0, len(data), len(buffer)):
        buffer[:] = data[at : at + len(buffer)]
        writer.write(memoryview(buffer))
        buffer[:] = bytes(len(buffer))
    writer.close()
    assert run("age", "-d", "-i", keys["age"].path, data=stream.getvalue()) == data
