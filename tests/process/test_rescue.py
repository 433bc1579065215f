"""Frames by which a thread finds back, byte by byte, and where they may be written."""

from __future__ import annotations

import struct

import pytest

from memdump.process import proc, rescue, sigframe_aarch64, sigframe_x86_64
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


@pytest.mark.parametrize(
    ("at", "stack", "place"),
    [
        (None, 0x20000, True),
        (0x8000, 0xF000, False),
        (0x8000, 0x10000, True),
        (0x7FFF, 0x20000, False),
        (0x100, 0x20000, False),
        (None, 0x8000, False),
        (None, 0x1000, False),
    ],
)
def test_where_the_main_stack_is_not_in_use(
    monkeypatch: pytest.MonkeyPatch, at: int | None, stack: int, place: bool
) -> None:
    """It is all zeros there, and no thread's stack pointer is near; ``at`` is where a byte is none."""
    start, content = 0x7FF0_0000_0000, bytearray(0x10000)
    if at is not None:
        content[at] = 1
    monkeypatch.setattr(
        proc, "read_at", lambda _pid, _name, where, size: bytes(content[where - start :][:size])
    )
    mappings = [mapping(0x1000, 0x2000), mapping(start, start + 0x10000, path=b"[stack]")]
    found = rescue.unused(mappings, 1, [0x1800, start + stack])
    assert (found is not None) is place
    if found is not None:
        assert start + (20 << 10) < found <= start + 0x8000
    assert rescue.unused(mappings[:1], 1, []) is None
    assert rescue.unused([mapping(start, start + 0xF000, path=b"[stack]")], 1, []) is None
    assert rescue.unused([mapping(start, start + 0x10000)], 1, []) is None


def test_without_a_way_back_a_thread_is_borrowed_as_it_is() -> None:
    capture = Capture(Wanted(1, "fork"), AARCH64)
    capture._instructions = Instructions(CALL)
    capture._mappings = [mapping(0, 0x200000, path=b"[stack]")]
    words = [0x1FF000] * AARCH64.words
    assert capture._loss(1, Standing(AARCH64.pack(words), 0)) == 2
    capture._instructions = Instructions(CALL, BACK)
    assert capture._loss(1, Standing(AARCH64.pack(words), 0)) == 0
    words[8] = 101  # nanosleep
    assert capture._loss(1, Standing(AARCH64.pack(words), 0)) == 1


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
    made = sigframe_x86_64.floating_point(content)
    assert len(made) == kept + 4
    magic, whole, told, length = struct.unpack_from("<IIQI", made, 464)
    assert (magic, whole, length) == (0x46505853, kept + 4, kept)
    assert told == (features if kept == size else features & ~(1 << 18))
    assert made[-4:] == struct.pack("<I", 0x46505845)
    assert made[:464] + made[512:-4] == content[:464] + content[512:kept]


@pytest.mark.parametrize("size", [0, 511, 575])
def test_no_floating_point_state_makes_no_frame(size: int) -> None:
    with pytest.raises(ValueError, match="too short"):
        sigframe_x86_64.floating_point(bytes(size))


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
    after = rescue.restarting(X86_64, words, waited_in)
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
    floating = sigframe_x86_64.floating_point(extended(7, 7, 832))
    made = rescue.frames(X86_64, words, 0x55, floating, Instructions(CALL, BACK), STACK)
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
    assert made.content[state - made.start :][: len(floating)] == floating
    assert word(made.child, 224) == word(made.waiting, 224) == 0
    assert word(made.child, 296) == word(made.waiting, 296) == (1 << 64) - 1


FLOATING = bytes(index % 253 for index in range(528))
"""``struct user_fpsimd_state``: 32 vectors, FPSR, FPCR."""


def scalable(length: int, flags: int = 1) -> bytes:
    """``NT_ARM_SVE``: ``struct user_sve_header``, vectors, predicates and FFR, of many numbers."""
    size = 32 * length + 17 * (length // 8)
    registers = bytes(index % 239 for index in range(size))
    return struct.pack("<IIHHHH", 16 + size, 1 << 16, length, length, flags, 0) + registers + bytes(16)


@pytest.mark.parametrize(("length", "size"), [(16, 576), (64, 2208)])
def test_records_of_arm64(length: int, size: int) -> None:
    """Kernel, ``struct fpsimd_context`` and ``struct sve_context``."""
    vectors = scalable(length)
    made = sigframe_aarch64.records(FLOATING, vectors)
    assert struct.unpack_from("<IIQ", made) == (0x46508001, 528, *struct.unpack_from("<Q", FLOATING, 512))
    assert made[16:528] == FLOATING[:512]
    assert struct.unpack_from("<IIHHHH", made, 528) == (0x53564501, size, length, 0, 0, 0)
    assert made[544 : 528 + size].startswith(vectors[16:-16])
    assert made[528 + size :] == bytes(16)


def test_registers_that_are_none_of_sve_make_no_record_of_it() -> None:
    plain = sigframe_aarch64.records(FLOATING, b"")
    assert len(plain) == 528 + 16
    assert sigframe_aarch64.records(FLOATING, scalable(64, flags=0)) == plain
    assert sigframe_aarch64.records(FLOATING, scalable(64)[:16]) == plain


def test_what_no_frame_of_arm64_holds_is_refused() -> None:
    for floating, vectors in (
        (FLOATING[:519], b""),
        (FLOATING, scalable(128)),
        (FLOATING, scalable(64)[:900]),
    ):
        with pytest.raises(ValueError, match="too"):
            sigframe_aarch64.records(floating, vectors)


def test_where_the_frames_of_arm64_are() -> None:
    words = list(range(100, 100 + AARCH64.words))
    words[31], words[33] = STACK, 0x600003C5
    made = rescue.frames(
        AARCH64, words, 0x55, sigframe_aarch64.records(FLOATING, b""), Instructions(CALL, BACK), STACK
    )
    assert made.start + len(made.content) <= STACK - 128
    assert {pointer % 16 for pointer in (made.stack, made.waiting, made.child)} == {0}

    def word(frame: int, offset: int) -> int:
        found: int = struct.unpack_from("<Q", made.content, frame - made.start + offset)[0]
        return found

    # struct rt_sigframe: the mask at 168; struct sigcontext at 304: X0 at 8, SP, PC and PSTATE behind X30
    registers = [
        [word(frame, 312 + 8 * n) for n in range(34)] for frame in (made.stack, made.waiting, made.child)
    ]
    own, waiting, exiting = registers
    assert own == words
    assert (waiting[8], waiting[32], waiting[31], waiting[30]) == (260, CALL, made.stack, BACK)
    assert (waiting[0], waiting[2], waiting[3]) == ((1 << 31) - 1, 0x40000000, 0)
    assert (exiting[8], exiting[32], exiting[0]) == (94, CALL, 0)
    assert {waiting[33], exiting[33]} == {0x600003C5 & ~0xC00}
    assert made.pid == made.waiting + 312
    assert [word(frame, 168) for frame in (made.stack, made.waiting, made.child)] == [
        0x55,
        (1 << 64) - 1,
        (1 << 64) - 1,
    ]
    for frame in (made.stack, made.waiting, made.child):
        assert word(frame, 592) == 528 << 32 | 0x46508001


@pytest.mark.parametrize(("number", "waited_in", "again"), [(128, 98, 98), (128, None, 128), (63, 98, 63)])
def test_a_call_of_arm64_is_made_again(number: int, waited_in: int | None, again: int) -> None:
    """The kernel has prepared all but the number of the call that went on before."""
    words = list(range(AARCH64.words))
    words[8] = number
    after = rescue.restarting(AARCH64, words, waited_in)
    assert after == [*words[:8], again, *words[9:]]
