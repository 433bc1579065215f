"""Whatever was changed in an age file is refused, or not served; who may not open it is told why."""

from __future__ import annotations

import base64
import binascii
import hmac
import io
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from memdump.errors import MemdumpError, NotADump, NotPermitted, UsageError
from memdump.image.age import AgeContent, AgeWriter, Passphrase, is_age, parse_recipients, wants_passphrase
from memdump.image.age_chunks import payload_cipher
from memdump.image.age_header import LARGEST, Stanza, encode_header, hkdf
from memdump.image.age_keys import X25519Identity, X25519Recipient, x25519_public
from memdump.image.age_ssh import ssh_identity
from memdump.image.content import Damaged

from .sealed import CHUNK, SEALED, Bytes, header_size, plaintext, seal, unseal

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = bytes(range(32))
IDENTITY = X25519Identity(SECRET)
RECIPIENT = X25519Recipient(x25519_public(SECRET))
STRANGER = X25519Identity(bytes(range(1, 33)))

DATA = plaintext(4 * CHUNK + 1000)
GOOD = seal(DATA, [RECIPIENT])
START = header_size(GOOD)
EVEN = seal(DATA[: 2 * CHUNK], [RECIPIENT])


def piece(number: int) -> slice:
    """Where a chunk stands in the file."""
    return slice(START + number * SEALED, START + (number + 1) * SEALED)


def armoured(sealed: bytes) -> bytes:
    text = binascii.b2a_base64(sealed, newline=False)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return b"\n".join(
        [b"-----BEGIN AGE ENCRYPTED FILE-----", *lines, b"-----END AGE ENCRYPTED FILE-----", b""]
    )


@given(st.integers(-10, len(DATA) + 10), st.integers(-10, len(DATA) + 10), st.booleans())
def test_a_slice_is_that_of_the_plaintext(start: int, stop: int, shorter: bool) -> None:
    content = AgeContent(Bytes(GOOD), [IDENTITY])
    end = start + 100 if shorter else stop
    assert content[start:end] == DATA[start:end]
    assert content[start:] == DATA[start:]
    assert len(content) == len(DATA)


def test_a_long_slice_is_that_of_the_plaintext() -> None:
    data = plaintext(70 * CHUNK + 3)
    content = AgeContent(Bytes(seal(data, [RECIPIENT])), [IDENTITY])
    assert content[5:] == data[5:]
    assert content[CHUNK : 60 * CHUNK] == data[CHUNK : 60 * CHUNK]
    content.close()


def test_only_what_is_asked_for_is_read() -> None:
    sealed = Bytes(GOOD)
    content = AgeContent(sealed, [IDENTITY])
    opening, sealed.read = sealed.read, 0
    assert opening < LARGEST + SEALED
    assert content[CHUNK - 1 : CHUNK + 1] == DATA[CHUNK - 1 : CHUNK + 1]
    assert sealed.read == 2 * SEALED
    assert content[CHUNK : CHUNK + 100] == DATA[CHUNK : CHUNK + 100]
    assert sealed.read == 2 * SEALED


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_is_never_served(at: int, change: int) -> None:
    sealed = bytearray(GOOD)
    sealed[at] ^= change
    final = (len(DATA) - 1) // CHUNK
    if at < START or at >= piece(final).start:
        with pytest.raises(MemdumpError):
            AgeContent(Bytes(sealed), [IDENTITY])
        return
    number = (at - START) // SEALED
    content = AgeContent(Bytes(sealed), [IDENTITY])
    with pytest.raises(Damaged) as raised:
        content[(number + 1) * CHUNK - 1 : len(DATA)]
    assert (raised.value.offset, raised.value.size) == (number * CHUNK, CHUNK)
    assert content[: number * CHUNK] == DATA[: number * CHUNK]
    assert content[(number + 1) * CHUNK :] == DATA[(number + 1) * CHUNK :]


@given(st.one_of(st.integers(0, len(GOOD) - 1), st.integers(0, 4).map(lambda count: START + count * SEALED)))
def test_a_file_that_was_cut_off_is_refused(size: int) -> None:
    with pytest.raises(NotADump):
        AgeContent(Bytes(GOOD[:size]), [IDENTITY])


@pytest.mark.parametrize("sealed", [GOOD, EVEN])
@pytest.mark.parametrize("more", [b"\0", b"x" * 16, b"x" * 17, b"x" * SEALED, GOOD])
def test_what_was_appended_is_refused(sealed: bytes, more: bytes) -> None:
    with pytest.raises(NotADump):
        AgeContent(Bytes(sealed + more), [IDENTITY])


@pytest.mark.parametrize(
    ("chunks", "good"),
    [
        ([b""], True),
        ([DATA[:CHUNK], b"x"], True),
        ([DATA[:CHUNK], b""], False),
        ([DATA[:100], b"x"], False),
        ([DATA[: CHUNK + 1]], False),
    ],
)
def test_only_the_last_chunk_is_short_and_never_empty(chunks: list[bytes], good: bool) -> None:
    cipher = payload_cipher(bytes(16), bytes(16))
    sealed = encode_header([RECIPIENT.wrap(bytes(16))], bytes(16)) + bytes(16)
    for number, chunk in enumerate(chunks):
        nonce = number.to_bytes(11, "big") + bytes([number == len(chunks) - 1])
        sealed += cipher.encrypt(nonce, chunk, None)
    if good:
        assert unseal(sealed, [IDENTITY]) == b"".join(chunks)
    else:
        with pytest.raises((NotADump, Damaged)):
            unseal(sealed, [IDENTITY])


@pytest.mark.parametrize(
    "change",
    [
        lambda good, _: good[piece(1)] + good[piece(0)] + good[START + 2 * SEALED :],
        lambda good, _: good[piece(1)] * 2 + good[START + 2 * SEALED :],
        lambda good, _: good[piece(0)] + good[START + 2 * SEALED :],
        lambda good, other: good[piece(0)] + other[piece(1)] + good[START + 2 * SEALED :],
        lambda good, other: other[START:],
    ],
    ids=["swapped", "twice", "dropped", "spliced", "another payload"],
)
def test_chunks_stay_where_they_belong(change: Callable[[bytes, bytes], bytes]) -> None:
    other = seal(DATA, [RECIPIENT])
    with pytest.raises((NotADump, Damaged)):
        unseal(GOOD[:START] + change(GOOD, other), [IDENTITY])


@given(st.integers(0, len(GOOD)))
def test_a_partial_file_gives_what_is_whole(size: int) -> None:
    if size < START:
        with pytest.raises(NotADump):
            AgeContent(Bytes(GOOD[:size]), [IDENTITY], partial=True)
        return
    content = AgeContent(Bytes(GOOD[:size]), [IDENTITY], partial=True)
    whole = size == len(GOOD)
    assert len(content) == (len(DATA) if whole else (size - START) // SEALED * CHUNK)
    assert content[: len(content)] == DATA[: len(content)]
    assert bool(content.defects) is not whole


def test_a_partial_file_may_end_in_blocks_that_were_never_written() -> None:
    content = AgeContent(Bytes(GOOD[: START + 2 * SEALED] + bytes(3 * SEALED)), [IDENTITY], partial=True)
    assert content[: len(content)] == DATA[: 2 * CHUNK]
    assert "truncated" in content.defects[0]


@given(st.integers(0, 2000), st.sampled_from([b"", b"\n", b" ", b"=", b"A", b"\r"]))
def test_armour_has_one_spelling(at: int, insert: bytes) -> None:
    good = armoured(seal(b"some bytes", [RECIPIENT]))
    at = 1 + at % (len(good) - 2)
    bad = good[:at] + insert + good[at + (not insert) :]
    if insert == b"\r" and good[at : at + 1] == b"\n":
        assert unseal(bad, [IDENTITY]) == b"some bytes"
    else:
        with pytest.raises(NotADump):
            unseal(bad, [IDENTITY])


@given(st.binary(max_size=300), st.sampled_from([0, 22, 30, 100, START - 20, START]))
def test_any_bytes_are_refused_in_one_line(garbage: bytes, keep: int) -> None:
    with pytest.raises(MemdumpError) as raised:
        AgeContent(Bytes(GOOD[:keep] + garbage), [IDENTITY], name="evil.age")
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("evil.age: ")


def test_armour_is_canonical() -> None:
    """The bits behind the last byte are zeros: 0b01 in their place would make a second spelling."""
    for size in range(3):
        good = armoured(seal(bytes(size), [RECIPIENT]))
        if b"==\n" in good:
            last = good[good.index(b"==\n") - 1 :][:1]
            bad = good.replace(last + b"==\n", bytes([last[0] + 1]) + b"==\n")
            with pytest.raises(NotADump, match="base64"):
                unseal(bad, [IDENTITY])


def test_a_header_without_an_end_is_not_read_whole() -> None:
    sealed = Bytes(b"age-encryption.org/v1\n" + b"-> X\n\n" * 1_000_000)
    with pytest.raises(NotADump):
        AgeContent(sealed, [IDENTITY])
    assert sealed.read < 2 * LARGEST


def headed(extra: bytes, mac: Callable[[bytes], bytes] = bytes) -> bytes:
    """An empty file with more in its header, which its MAC covers: only the grammar can be against it."""
    file_key, nonce = bytes(16), bytes(16)
    text = b"age-encryption.org/v1\n" + RECIPIENT.wrap(file_key).encode() + extra + b"---"
    spelt = base64.b64encode(hmac.digest(hkdf(file_key, b"", b"header"), text, "sha256"))
    last_nonce = bytes(11) + b"\1"
    sealed = payload_cipher(file_key, nonce).encrypt(last_nonce, b"", None)
    return text + b" " + mac(spelt.rstrip(b"=")) + b"\n" + nonce + sealed


GREASE = b"-> grease !~ x\n" + b"A" * 64 + b"\n" + b"AAAA\n"


@pytest.mark.parametrize("extra", [b"", GREASE, b"-> a\n\n", GREASE + b"-> b\n" + b"A" * 64 + b"\n\n"])
def test_what_is_not_for_us_is_passed_over(extra: bytes) -> None:
    assert unseal(headed(extra), [IDENTITY]) == b""


@pytest.mark.parametrize(
    "extra",
    [
        b"-> two  spaces\n\n",
        b"-> behind \n\n",
        b"->\n\n",
        b"-> \n\n",
        b"->none\n\n",
        b"->  in front\n\n",
        b"-> carriage return\r\n\n",
        b"-> control\x1f\n\n",
        b"-> \xc3\xa9\n\n",
        b"-> no body\n",
        b"-> no end\n" + b"A" * 64 + b"\n",
        b"-> too long\n" + b"A" * 68 + b"\n",
        b"-> padded\nAA==\n",
        b"-> not canonical\nAB\n",
        b"-> one letter\nA\n",
        b"-> space\nAA AA\n",
        b"-> carriage return\nAAAA\r\n",
        b"-> two short lines\nAA\nAA\n",
        b"nonsense\n",
        b"\n",
    ],
)
def test_a_header_has_one_spelling(extra: bytes) -> None:
    with pytest.raises(NotADump, match="damaged"):
        unseal(headed(extra), [IDENTITY])


@pytest.mark.parametrize(
    "change",
    [
        lambda mac: mac + b"=",
        lambda mac: mac[:-1],
        lambda mac: mac + b" ",
        lambda mac: b" " + mac,
        lambda mac: mac[:-1] + chr(mac[-1] + 1).encode(),  # the same bits, but for those that do not count
        lambda mac: b"",
    ],
)
def test_a_mac_has_one_spelling(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(NotADump, match="MAC is not written"):
        unseal(headed(b"", change), [IDENTITY])


def test_a_stanza_of_others_that_was_changed_is_noticed() -> None:
    with pytest.raises(NotADump, match="changed since it was written"):
        unseal(headed(GREASE).replace(b"grease", b"grEase"), [IDENTITY])


def stanzas(*made: Stanza) -> Bytes:
    return Bytes(encode_header(made, bytes(16)) + bytes(16 + 16))


def test_another_key_does_not_open_it() -> None:
    line = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    sealed = seal(b"", [RECIPIENT, *parse_recipients([line.decode()])])
    with pytest.raises(
        NotPermitted, match="none of the identities opens it; it is encrypted to an age key, the ssh"
    ):
        unseal(sealed, [STRANGER, *other_identities()])
    with pytest.raises(NotPermitted, match="give the file of the private key"):
        unseal(sealed, [])
    with pytest.raises(NotPermitted, match="a passphrase does not open it"):
        unseal(sealed, [Passphrase("guess")])


def other_identities() -> list[Any]:
    keys = [Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)]
    return [ssh_identity(key) for key in keys]


def test_another_passphrase_does_not_open_it() -> None:
    sealed = seal(b"", [Passphrase("right", work_factor=4)])
    assert is_age(sealed)
    assert wants_passphrase(Bytes(sealed))
    with pytest.raises(NotPermitted, match="the passphrase is wrong"):
        unseal(sealed, [Passphrase("wrong")])
    with pytest.raises(NotPermitted, match="encrypted with a passphrase"):
        unseal(sealed, [IDENTITY])
    assert not wants_passphrase(Bytes(GOOD))
    assert not wants_passphrase(Bytes(b"age-encryption.org/v1\nnonsense"))


def test_a_header_cannot_ask_for_hours_of_work() -> None:
    for work in ("23", "99", "100000000000000000000"):
        with pytest.raises(NotADump, match="rounds"):
            unseal(stanzas(Stanza("scrypt", ("A" * 22, work), bytes(32))), [Passphrase("x")])
    for work in ("0", "01", "+4", "4.0", "0x4"):
        with pytest.raises(NotADump, match="no number"):
            unseal(stanzas(Stanza("scrypt", ("A" * 22, work), bytes(32))), [Passphrase("x")])


def test_a_passphrase_stands_alone() -> None:
    made = [Passphrase("x", work_factor=2).wrap(bytes(16)), RECIPIENT.wrap(bytes(16))]
    for identity in (Passphrase("x"), IDENTITY):
        with pytest.raises(NotADump, match="beside other recipients"):
            unseal(stanzas(*made), [identity])
    with pytest.raises(UsageError, match="stands alone"):
        seal(b"", [Passphrase("x"), RECIPIENT])
    with pytest.raises(UsageError, match="no one"):
        seal(b"", [])
    with pytest.raises(UsageError, match="empty"):
        Passphrase("")


def test_a_wrapped_key_of_another_length_is_refused() -> None:
    stanza = RECIPIENT.wrap(bytes(17))
    with pytest.raises(NotADump, match="33 bytes"):
        unseal(stanzas(stanza), [IDENTITY])


def test_what_is_unknown_is_named() -> None:
    strange = Stanza("mlkem768x25519", ("AAAA",), bytes(32))
    with pytest.raises(NotPermitted, match="'mlkem768x25519' that memdump cannot open"):
        unseal(stanzas(strange), [IDENTITY])
    with pytest.raises(NotADump, match="version 'v2'"):
        unseal(GOOD.replace(b"/v1\n", b"/v2\n", 1), [IDENTITY])


def test_a_writer_whose_stream_fails_writes_no_end() -> None:
    class Full(io.BytesIO):
        room = 3_000_000

        def write(self, data: Any) -> int:
            taken = super().write(data[: max(self.room - self.tell(), 0)])  # as a disk does
            if taken < len(data):
                raise OSError("no space left")
            return taken

    stream = Full()
    writer = AgeWriter(stream, [RECIPIENT])
    with pytest.raises(OSError, match="no space"):
        for _ in range(100):
            writer.write(bytes(1_000_000))
    stream.room = 1 << 40
    with pytest.raises(OSError, match="no space"):
        writer.write(b"more")
    with pytest.raises(OSError, match="no space"):
        writer.close()
    with pytest.raises(NotADump):
        AgeContent(Bytes(stream.getvalue()), [IDENTITY])
    content = AgeContent(Bytes(stream.getvalue()), [IDENTITY], partial=True)
    assert content[: len(content)] == bytes(len(content))
    assert len(content) > 2_900_000
