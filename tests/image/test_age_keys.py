"""Keys as users give them: what is taken, and what is said of the rest."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from memdump.errors import MemdumpError, NotPermitted, UsageError
from memdump.image import bech32
from memdump.image.age import Passphrase, load_identities, parse_recipients
from memdump.image.age_keys import X25519Identity, X25519Recipient, x25519_public
from memdump.image.age_ssh import montgomery

from .conftest import tool
from .sealed import run, seal, unseal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The pair that the specification of age gives.
SECRET = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"
PUBLIC = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"

ED25519 = Ed25519PrivateKey.generate()
ECDSA = ec.generate_private_key(ec.SECP256R1())


def ssh_line(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def private(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, passphrase: bytes = b"") -> bytes:
    protection = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, protection)


def test_the_pair_of_the_specification() -> None:
    kind, secret = bech32.decode(SECRET)
    assert (kind, secret) == ("AGE-SECRET-KEY-", b"\x42" * 32)
    assert bech32.encode(kind, secret) == SECRET
    assert str(X25519Recipient(x25519_public(secret))) == PUBLIC


@given(st.sampled_from(["age", "AGE-SECRET-KEY-", "age1name"]), st.binary(max_size=100))
def test_bech32_gives_back_what_it_took(kind: str, data: bytes) -> None:
    assert bech32.decode(bech32.encode(kind, data)) == (kind, data)


def numbers() -> Iterator[str]:
    """Names of cases: they hold keys made afresh, which would be other names in each process."""
    return map(str, itertools.count())


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("A12UEL5L", 0),
        ("abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw", 20),
        ("11qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqc8247j", 51),
        ("split1checkupstagehandshakeupstreamerranterredcaperred2y9e3w", 30),
    ],
)
def test_what_the_specification_of_bech32_gives(text: str, size: int) -> None:
    kind, data = bech32.decode(text)
    assert kind == text.rpartition("1")[0]
    assert len(data) == size
    assert bech32.encode(kind, data) == text


@pytest.mark.parametrize(
    "text",
    [
        "tb1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3pjxtptv",  # a bit is left over and set
        "pzry9x0s0muk",
        "1pzry9x0s0muk",
        "x1b4n0q5v",
        "li1dgmt3",
        "A1G7SGD8",
        "10a06t8",
        "a12UEL5L",
    ],
)
def test_what_the_specification_of_bech32_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="it"):
        bech32.decode(text)


@given(st.integers(0, len(PUBLIC) - 1), st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7lbio1A~\u212a é"))
def test_a_mistyped_letter_is_noticed(at: int, letter: str) -> None:
    typed = PUBLIC[:at] + letter + PUBLIC[at + 1 :]
    if typed == PUBLIC:
        return
    with pytest.raises(ValueError, match="it"):
        X25519Recipient.parse(typed)


@given(st.binary(min_size=32, max_size=32))
def test_an_ed25519_key_becomes_the_x25519_key_of_its_secret(seed: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    scalar = hashlib.sha512(seed).digest()[:32]
    assert montgomery(key.public_key().public_bytes_raw()) == x25519_public(scalar)


@pytest.mark.parametrize(
    "point", [b"\x01" + bytes(31), b"\x02" + bytes(31)], ids=["neutral", "off the curve"]
)
def test_a_point_without_a_key_is_refused(point: bytes) -> None:
    with pytest.raises(ValueError, match="nobody"):
        montgomery(point)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (SECRET, "is a private key"),
        ("AGE-PLUGIN-YUBIKEY-1QQQQ", "is a private key"),
        (PUBLIC[:-1] + "q", "checksum"),
        ("age1pq1qqqqqqqq", "post-quantum"),
        ("age1tagpq1qqqqqq", "post-quantum"),
        ("age1yubikey1qqqqqqq", "plugin"),
        (ssh_line(ECDSA), "ssh-ed25519 and ssh-rsa"),
        ("sk-ssh-ed25519@openssh.com AAAA", "ssh-ed25519 and ssh-rsa"),
        ("ssh-ed25519", "damaged"),
        ("ssh-ed25519 AAAA", "damaged"),
        (ssh_line(ED25519)[:-4], "damaged"),
        (ssh_line(ED25519).replace("ssh-ed25519", "ssh-rsa", 1), "damaged"),
        (ssh_line(rsa.generate_private_key(65537, 1024)), "too few"),
        ("github:someone", r"https://github.com/someone.keys"),
        ("nonsense", "is no recipient .* and no file"),
        ("/nowhere/recipients", "No such file"),
        ("/", "directory"),
        ("nul\0", "is no recipient"),
    ],
    ids=numbers(),
)
def test_what_is_no_recipient_is_said(word: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as raised:
        parse_recipients([PUBLIC, word])
    assert SECRET[-20:] not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "names no recipient"),
        (b"# nobody\n\n", "names no recipient"),
        (PUBLIC.encode() + b"\n" + SECRET.encode(), "line 2: is a private key"),
        (b"# mine\nnonsense", "line 2"),
        (private(ED25519), "is a private key; give the public one"),
        (b"\xff\xfe", "not text"),
        (bytes(17 << 20), "too long"),
    ],
    ids=numbers(),
)
def test_a_file_of_no_recipients_is_said(tmp_path: Path, text: bytes, told: str) -> None:
    path = tmp_path / "recipients"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=told) as raised:
        parse_recipients([str(path)])
    assert SECRET[-20:] not in str(raised.value)


def test_a_recipient_to_whom_nothing_can_be_encrypted() -> None:
    nothing = parse_recipients([bech32.encode("age", bytes(32))])
    with pytest.raises(UsageError, match="ask for another"):
        seal(b"", nothing)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "holds no private key"),
        (PUBLIC.encode(), "line 1: is a public key"),
        (ssh_line(ED25519).encode(), "is a public key"),
        (b"# mine\n" + SECRET[:-1].encode() + b"Q", "line 2: is no private key of age: its checksum"),
        (b"AGE-PLUGIN-YUBIKEY-1QQQQ", "plugin"),
        (b"AGE-SECRET-KEY-PQ-1QQQQ", "post-quantum"),
        (b"hunter2", "begin with AGE-SECRET-KEY-1"),
        (private(ECDSA), "ed25519 and RSA"),
        (b"-----BEGIN RSA PRIVATE KEY-----\nnonsense", "damaged"),
        (private(ED25519).replace(b"\n", b"\nAAAA", 3), "damaged"),
        (b"\xff", "not text"),
    ],
    ids=numbers(),
)
def test_what_is_no_identity_is_said(tmp_path: Path, text: bytes, told: str) -> None:
    path = tmp_path / "identities"
    path.write_bytes(text)
    with pytest.raises(MemdumpError, match=told) as raised:
        load_identities(path)
    assert "hunter2" not in str(raised.value)
    assert SECRET[-20:-1] not in str(raised.value)


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"-----BEGIN OPENSSH PRIVATE KEY-----\n", SECRET.encode()])
)
def test_any_file_gives_keys_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, start: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(start + text)
    for use in (lambda: load_identities(path), lambda: parse_recipients([str(path)])):
        try:
            use()
        except MemdumpError as error:
            assert "\n" not in str(error)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_identities(tmp_path / "missing")
    with pytest.raises(UsageError, match="directory"):
        load_identities(tmp_path)


def test_a_protected_key_needs_its_passphrase(tmp_path: Path) -> None:
    pytest.importorskip("bcrypt", reason="pip install bcrypt: OpenSSH protects its keys with it")
    path = tmp_path / "id_ed25519"
    path.write_bytes(private(ED25519, b"right"))
    with pytest.raises(NotPermitted, match="no terminal"):
        load_identities(path)
    with pytest.raises(NotPermitted, match="the passphrase is wrong"):
        load_identities(path, lambda _: "wrong")
    with pytest.raises(NotPermitted, match="none was given"):
        load_identities(path, lambda _: "")
    sealed = seal(b"opened", parse_recipients([ssh_line(ED25519)]))
    assert unseal(sealed, load_identities(path, lambda _: "right")) == b"opened"


def test_a_protected_file_of_identities_needs_its_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "identities.age"
    path.write_bytes(seal(SECRET.encode(), [Passphrase("right", work_factor=4)]))
    with pytest.raises(NotPermitted, match="no terminal"):
        load_identities(path)
    with pytest.raises(NotPermitted, match=r"identities\.age: the passphrase is wrong"):
        load_identities(path, lambda _: "wrong")
    sealed = seal(b"opened", parse_recipients([PUBLIC]))
    assert unseal(sealed, load_identities(path, lambda _: "right")) == b"opened"
    path.write_bytes(sealed)
    with pytest.raises(NotPermitted, match="a passphrase does not open it"):
        load_identities(path, lambda _: "right")


def test_no_secret_is_shown() -> None:
    for holder in (Passphrase("hunter2"), X25519Identity.parse(SECRET)):
        assert "hunter2" not in f"{holder} {holder!r}"
        assert "42" * 8 not in f"{holder!r}".lower()


def test_what_is_said_of_an_ssh_key_is_what_ssh_keygen_says(tmp_path: Path) -> None:
    path = tmp_path / "key.pub"
    path.write_text(ssh_line(ED25519))
    shown = run(tool("ssh-keygen", "apt install openssh-client"), "-lf", path).decode()
    with pytest.raises(NotPermitted) as raised:
        unseal(seal(b"", parse_recipients([str(path)])), [X25519Identity.parse(SECRET)])
    begin = str(raised.value).rpartition("SHA256:")[2].removesuffix("…")
    assert len(begin) == 5
    assert f"SHA256:{begin}" in shown


def test_only_age_itself_is_needed_to_read_the_public_key(tmp_path: Path) -> None:
    tool("age-keygen", "apt install age")
    done = subprocess.run(["age-keygen", "-y"], input=SECRET, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == PUBLIC
