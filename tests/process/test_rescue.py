"""Frames by which a thread finds back, byte by byte, and where they may be written."""

from __future__ import annotations

import struct

import pytest

from memdump.process import rescue
from memdump.process.architecture import AARCH64, X86_64
from memdump.process.capture import Capture, Wanted
from memdump.process.inject import Instructions
from memdump.process.maps import Mapping
from memdump.process.threads import Standing

CALL, BACK = 0x7000, 0x8000
STACK = 0x7FFD_0000_1234
AX, ORIGINAL, PC, SP, DI = 10, 15, 16, 19, 14


def mapping(start: int, end: int, permissions: str = "rw-p", path: bytes = b"") -> Mapping:
    return Mapping(start, end, permissions, 0, "00:00", 0, path)


@pytest.mark.parametrize(
    ("below", "stack", "room"),
    [
        (None, mapping(0x100000, 0x200000, path=b"[stack]"), True),
        (mapping(0xFF000, 0x100000, "---p"), mapping(0x100000, 0x200000), True),
        (None, mapping(0x100000, 0x200000), False),
        (mapping(0xFE000, 0xFF000, "---p"), mapping(0x100000, 0x200000), False),
        (mapping(0xFF000, 0x100000, "rw-p"), mapping(0x100000, 0x200000), False),
        (mapping(0xFF000, 0x1F8000, "---p"), mapping(0x1F8000, 0x200000), False),
        (mapping(0xFF000, 0x100000, "---p"), mapping(0x100000, 0x200000, "rw-s"), False),
        (mapping(0xFF000, 0x100000, "---p"), mapping(0x100000, 0x1FE000), False),
    ],
)
def test_only_a_stack_with_room_is_written_to(below: Mapping | None, stack: Mapping, room: bool) -> None:
    mappings = [mapping(0x1000, 0x2000), *([below] if below else []), stack, mapping(0x300000, 0x400000)]
    assert rescue.has_room(mappings, 0x1FF000) is room
    assert not rescue.has_room(mappings, 0x500)
    assert not rescue.has_room([], 0x1FF000)


def test_elsewhere_a_thread_is_borrowed_as_it_is() -> None:
    """On arm64 nothing is written, and the registers are not read as those of x86-64."""
    capture = Capture(Wanted(1, "fork"), AARCH64)
    capture._instructions = Instructions(CALL)
    capture._mappings = [mapping(0, 0x200000, path=b"[stack]")]
    words = [0x1FF000] * AARCH64.words
    assert capture._loss(Standing(AARCH64.pack(words), 0)) == 2


def extended(features: int, present: int, size: int) -> bytes:
    content = bytearray(index % 251 for index in range(size))
    content[464:528] = struct.pack("<Q40xQQ", features, present, 0)
    return bytes(content)


@pytest.mark.parametrize(
    ("features", "present", "size", "kept"),
    [
        (0x7, 0x7, 832, 832),
        (0x2E7, 0x3, 2696, 2696),
        (0x602E7, 0x602E7, 11008, 11008),
        (0x602E7, 0x202E7, 11008, 2816),  # no room for tiles in the frames of a program that has not asked
    ],
)
def test_floating_point_states_of_all_sizes(features: int, present: int, size: int, kept: int) -> None:
    """Kernel, ``struct _fpx_sw_bytes``: two magic numbers, the features and both sizes."""
    content = extended(features, present, size)
    made = rescue.floating_point(content)
    assert made is not None
    assert len(made) == kept + 4
    magic, whole, told, length = struct.unpack_from("<IIQI", made, 464)
    assert (magic, whole, length) == (0x46505853, kept + 4, kept)
    assert told == (features if kept == size else features & ~(1 << 18))
    assert made[-4:] == struct.pack("<I", 0x46505845)
    assert made[:464] + made[512:-4] == content[:464] + content[512:kept]


@pytest.mark.parametrize("size", [0, 511, 575])
def test_no_floating_point_state_makes_no_frame(size: int) -> None:
    assert rescue.floating_point(bytes(size)) is None


@pytest.mark.parametrize(
    ("number", "result", "waited_in", "again"),
    [
        (0, -512, None, 0),
        (232, -514, None, 232),
        (61, -513, 7, 61),
        (35, -516, None, 35),
        (219, -516, 202, 202),
        (219, -516, None, 219),
        (0, -4, None, None),
        (0, 5, None, None),
        (-1, -512, None, None),
    ],
)
def test_an_interrupted_call_is_made_again(
    number: int, result: int, waited_in: int | None, again: int | None
) -> None:
    words = list(range(X86_64.words))
    words[ORIGINAL], words[AX], words[PC] = number & (1 << 64) - 1, result & (1 << 64) - 1, 0x5002
    after = rescue.restarting(words, waited_in)
    if again is None:
        assert after == words
    else:
        assert (after[AX], after[PC]) == (again, 0x5000)
        assert [after[n] for n in range(27) if n not in (AX, PC)] == [
            words[n] for n in range(27) if n not in (AX, PC)
        ]


def test_where_the_frames_are() -> None:
    words = list(range(100, 100 + X86_64.words))
    words[SP] = STACK
    floating = rescue.floating_point(extended(7, 7, 832))
    assert floating is not None
    made = rescue.frames(words, 0x55, floating, Instructions(CALL, BACK))
    end = made.start + len(made.content)
    assert end <= STACK - 128  # the red zone is the program's
    for pointer in (made.stack, made.waiting, made.child):
        at = pointer - made.start
        assert struct.unpack_from("<Q", made.content, at) == (BACK,)

    def word(frame: int, offset: int) -> int:
        """A word of a frame behind the address of the return, as ``struct ucontext`` has it."""
        found: int = struct.unpack_from("<Q", made.content, frame - made.start + 8 + offset)[0]
        return found

    # struct ucontext: rdi at 40 + 8 * 8, rax at 40 + 8 * 13, rsp, rip; the state at 40 + 184, the mask at 296
    assert made.pid == made.waiting + 8 + 104
    assert (word(made.child, 144), word(made.child, 168)) == (231, CALL)
    assert (word(made.waiting, 144), word(made.waiting, 168)) == (61, CALL)
    assert word(made.waiting, 160) == made.stack
    assert (word(made.stack, 144), word(made.stack, 160), word(made.stack, 168)) == (110, STACK, 116)
    assert (word(made.stack, 104), word(made.stack, 296)) == (100 + DI, 0x55)
    state = word(made.stack, 224)
    assert state % 64 == 0
    assert made.content[state - made.start :] == floating
    assert word(made.child, 224) == word(made.waiting, 224) == 0
    assert word(made.child, 296) == word(made.waiting, 296) == (1 << 64) - 1
