"""Images that are compressed, encrypted and in pieces, opened as the plain image is."""

from __future__ import annotations

import shutil
import struct
from functools import partial
from typing import TYPE_CHECKING

import pytest
import zstandard

import memdump
from memdump import tables
from memdump.errors import NotADump, NotPermitted
from memdump.image import open_image
from memdump.image.age import AgeWriter, Passphrase, load_identities, parse_recipients
from memdump.image.base import MissingMemory
from memdump.machine.output import Output
from memdump.seal import Sealing
from tests.conftest import made

from . import build
from .conftest import tool
from .sealed import Key, run
from .test_zstd_writer import memory, write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from memdump.image.age import Recipient

PIECES = [(0x1000, memory(0x9F000)), (0x100000, memory(0x300000, 1))]
LIME = build.lime(PIECES)
FORMATS: dict[str, Callable[[], bytes]] = {
    "lime": lambda: LIME,
    "avml": lambda: build.avml(PIECES),
    "elf": lambda: build.elf([build.Load(start, data) for start, data in PIECES]),
    "raw": lambda: memory(0x400000, 2),
}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    path = tmp_path_factory.mktemp("keys") / "key"
    run(tool("age-keygen", "apt install age"), "-o", path)
    return Key(run("age-keygen", "-y", path).decode().strip(), path)


def sealed(path: Path, data: bytes, recipients: Sequence[Recipient] = (), *, compress: bool = True) -> Path:
    with Output(path) as out:
        stream = Sealing(compress, recipients).upon(out)
        stream.write(data)
        stream.close(lambda: [b"{}"])
        out.commit()
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_in_every_layer(kind: str, key: Key, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(FORMATS[kind]())
    recipients = parse_recipients([key.recipient])
    paths = {
        ("zstd",): sealed(tmp_path / "a.zst", plain.read_bytes()),
        ("age",): sealed(tmp_path / "a.age", plain.read_bytes(), recipients, compress=False),
        ("age", "zstd"): sealed(tmp_path / "a.zst.age", plain.read_bytes(), recipients),
    }
    with open_image(plain) as expected:
        assert expected.layers == ()
        for layers, path in paths.items():
            with open_image(path, key.path) as image:
                assert tuple(layer.name for layer in image.layers) == layers
                assert (image.path, image.format, image.ranges) == (path, kind, expected.ranges)
                assert image.file_size == path.stat().st_size
                assert [(at, bytes(data)) for at, data in image.chunks(100_000)] == [
                    (at, bytes(data)) for at, data in expected.chunks(100_000)
                ]
                assert image.defects == []


def test_what_age_and_zstd_sealed(key: Key, tmp_path: Path) -> None:
    """By the programs alone, in armour, for two recipients."""
    path = tmp_path / "image"
    run(tool("ssh-keygen", "apt install openssh-client"), "-qt", "ed25519", "-N", "", "-f", tmp_path / "ssh")
    packed = run(tool("zstd", "apt install zstd"), "-c", data=LIME)
    path.write_bytes(run("age", "-a", "-r", key.recipient, "-R", tmp_path / "ssh.pub", data=packed))
    path.write_bytes(b"\n \r\n" + path.read_bytes())  # as its format permits
    with open_image(path, tmp_path / "ssh") as image:
        assert image.identity == str(tmp_path / "ssh")
    with open_image(path, load_identities(key.path)) as image:
        assert image.read(*_first()) == PIECES[0][1]
        assert [tuple(layer) for layer in image.layers] == [
            ("age", "X25519, ssh-ed25519"),
            ("zstd", "1 frame, all unpacked into memory"),
        ]


def _first() -> tuple[int, int]:
    return PIECES[0][0], len(PIECES[0][1])


def test_age_and_zstd_restore_what_memdump_sealed(key: Key, tmp_path: Path) -> None:
    path = sealed(tmp_path / "a.lime.zst.age", LIME, parse_recipients([key.recipient]))
    packed = run("age", "-d", "-i", key.path, path)
    assert run(tool("zstd", "apt install zstd"), "-dc", data=packed) == LIME


def test_without_a_key_it_is_said_for_whom_it_is(key: Key, tmp_path: Path) -> None:
    path = sealed(tmp_path / "a.age", LIME, parse_recipients([key.recipient]), compress=False)
    with pytest.raises(
        NotPermitted, match=r"encrypted to an age key; .*\(--identity FILE, or MEMDUMP_IDENTITY=FILE\)"
    ):
        open_image(path)


def test_another_key(key: Key, tmp_path: Path) -> None:
    run("age-keygen", "-o", tmp_path / "other")
    path = sealed(tmp_path / "a.age", LIME, parse_recipients([key.recipient]), compress=False)
    with pytest.raises(NotPermitted, match="none of the identities opens it"):
        open_image(path, tmp_path / "other")


def test_a_passphrase_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.age"
    with Output(path) as out:
        writer = AgeWriter(out, [Passphrase("right", work_factor=10)])
        writer.write(LIME)
        writer.close()
        out.commit()
    asked: list[str] = []

    def ask(words: str, answer: str) -> str:
        asked.append(words)
        return answer

    with open_image(path, ask=partial(ask, answer="right")) as image:
        assert image.read(*_first()) == PIECES[0][1]
    assert asked == [f"Passphrase of {path}: "]
    with open_image(path, identity=[Passphrase("right")]) as image:
        assert image.identity is None
    with pytest.raises(NotPermitted, match="the passphrase is wrong"):
        open_image(path, ask=partial(ask, answer="wrong"))
    with pytest.raises(NotPermitted, match=r"encrypted with a passphrase.*on a terminal memdump asks for it"):
        open_image(path)


def test_an_identity_is_not_read_where_nothing_is_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "a.lime"
    path.write_bytes(LIME)
    with open_image(path, tmp_path / "missing") as image:
        assert image.identity is None


def test_what_travels_with_it(tmp_path: Path) -> None:
    with open_image(sealed(tmp_path / "a.lime.zst", LIME)) as image:
        assert image.metadata == b"{}"


def test_a_damaged_frame_is_missing_memory(tmp_path: Path) -> None:
    frame = 8192
    packed = bytearray(write([LIME], frame=frame))
    # The 100th frame: its checksum no longer holds.
    end = sum(
        struct.unpack_from("<I", packed, len(packed) - 9 - 12 * _count(packed) + 12 * n)[0]
        for n in range(100)
    )
    packed[end - 1] ^= 1
    path = tmp_path / "a.lime.zst"
    path.write_bytes(packed)
    begin = 99 * frame - 32 - 0x9F000 - 32 + 0x100000
    with open_image(path) as image:
        assert image.defects == []
        assert image.read(begin - 100, 100) == LIME[99 * frame - 100 : 99 * frame]
        with pytest.raises(MissingMemory) as caught:
            image.read(begin - 100, 2 * frame)
        assert (caught.value.address, caught.value.size) == (begin, frame)
        held = {address: bytes(data) for address, data in image.chunks()}
        assert sum(map(len, held.values())) == len(PIECES[0][1]) + len(PIECES[1][1]) - frame
        assert image.defects == [
            f"{frame} bytes in 1 place cannot be read, the first at physical {begin:#x}: damaged"
        ]


def _count(packed: bytearray) -> int:
    (count,) = struct.unpack_from("<I", packed, len(packed) - 9)
    return int(count)


def test_a_damaged_range_header(tmp_path: Path) -> None:
    """The ranges in front of it are kept."""
    frame = 8192
    packed = bytearray(write([LIME], frame=frame))
    number = (32 + 0x9F000) // frame
    end = sum(
        struct.unpack_from("<I", packed, len(packed) - 9 - 12 * _count(packed) + 12 * n)[0]
        for n in range(number + 1)
    )
    packed[end - 1] ^= 1
    path = tmp_path / "a.lime.zst"
    path.write_bytes(packed)
    with open_image(path) as image:
        assert len(image.ranges) == 1
        assert image.defects == ["damaged: the range header at offset 0x9f020; what follows it is left out"]


@pytest.mark.parametrize("compress", [False, True])
def test_a_partial_image(compress: bool, key: Key, tmp_path: Path) -> None:
    recipients = parse_recipients([key.recipient])
    whole = sealed(tmp_path / "a.age", LIME, recipients, compress=compress).read_bytes()
    path = tmp_path / "b.age.part"
    path.write_bytes(whole[: len(whole) // 2])
    with open_image(path, key.path) as image:
        assert image.defects
        assert image.read(0x1000, 1000) == PIECES[0][1][:1000]
    with pytest.raises(NotADump, match="truncated"):
        open_image(shutil.copy(path, tmp_path / "b.age"), key.path)


# In pieces.


def split(path: Path, data: bytes, size: int, ending: str = "") -> list[Path]:
    files = []
    for number, at in enumerate(range(0, len(data), size)):
        files.append(path.with_name(f"{path.name}.{number:03}{ending}"))
        files[-1].write_bytes(data[at : at + size])
    return files


@pytest.mark.parametrize("ending", ["", ".part"])
@pytest.mark.parametrize("size", [1 << 20, 1_000_003, len(LIME) // 2, len(LIME)])
def test_pieces_are_one_image(ending: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / "a.lime"
    files = split(path, LIME, size, ending)
    for name in (tmp_path / f"a.lime{ending}", files[0], files[-1]):
        with open_image(name) as image:
            assert image.path == tmp_path / f"a.lime{ending}"
            assert image.file_size == len(LIME)
            assert [layer.detail for layer in image.layers] == [f"{len(files)} files"]
            assert b"".join(bytes(data) for _, data in image.chunks(1 << 19)) == PIECES[0][1] + PIECES[1][1]


def test_pieces_that_are_sealed(key: Key, tmp_path: Path) -> None:
    whole = sealed(tmp_path / "whole", LIME, parse_recipients([key.recipient]))
    split(tmp_path / "a.lime.zst.age", whole.read_bytes(), 300_000)
    with open_image(tmp_path / "a.lime.zst.age", key.path) as image:
        assert [layer.name for layer in image.layers] == ["split", "age", "zstd"]
        assert image.read(*_first()) == PIECES[0][1]


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_piece_is_named(number: int, tmp_path: Path) -> None:
    files = split(tmp_path / "a.lime", LIME, 1 << 20)
    files[number].unlink()
    with pytest.raises(NotADump, match=f"{files[number].name}: this piece of the image is missing"):
        open_image(tmp_path / "a.lime")


def test_a_piece_that_was_not_copied_whole(tmp_path: Path) -> None:
    files = split(tmp_path / "a.lime", LIME, 1 << 20)
    files[1].write_bytes(files[1].read_bytes()[:-1])
    with pytest.raises(NotADump, match=f"{files[1].name}: has 1048575 bytes, .* copy it again"):
        open_image(files[0])


def test_a_last_piece_that_is_too_large(tmp_path: Path) -> None:
    files = split(tmp_path / "a.lime", LIME, 1 << 20)
    files[-1].write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(NotADump, match="is larger than the other pieces"):
        open_image(files[0])


def test_a_file_that_only_looks_like_a_piece(tmp_path: Path) -> None:
    path = tmp_path / "a.123"
    path.write_bytes(LIME)
    with open_image(path) as image:
        assert image.layers == ()


# A real one.


@pytest.mark.lab
def test_all_tables_are_the_same(key: Key, tmp_path: Path) -> None:
    guest = made("6.12")
    data = guest.lime_image.read_bytes()
    recipients = parse_recipients([key.recipient])
    single = tmp_path / "single.zst"
    single.write_bytes(zstandard.ZstdCompressor(level=1).compress(data))
    paths = [
        sealed(tmp_path / "a.lime.zst", data),
        sealed(tmp_path / "a.lime.age", data, recipients, compress=False),
        sealed(tmp_path / "a.lime.zst.age", data, recipients),
        single,
    ]
    with memdump.open(guest.lime_image) as plain:
        expected = {name: [str(row) for row in plain.table(name)] for name in tables.names()}
    assert len(expected["processes"]) > 20
    for path in paths:
        with memdump.open(path, identity=key.path) as dump:
            assert {name: [str(row) for row in dump.table(name)] for name in tables.names()} == expected
