"""bpf(2) of a kernel made of bytes: it interprets programs by the words of RFC 9669."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MAP_CREATE, PROG_LOAD, PROG_TEST_RUN = 0, 5, 10
SYSCALL, RAW_TRACEPOINT = 31, 17
U64 = (1 << 64) - 1


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class FakeKernel:
    """Maps are memory files, kernel memory is a function from address and size to bytes or None."""

    def __init__(self, memory: Callable[[int, int], bytes | None], task: int = 0) -> None:
        self.memory = memory
        self.task = task
        self.types = [SYSCALL, RAW_TRACEPOINT]
        """The types of program that it knows."""
        self.refuses: dict[int, int] = {}
        """Error numbers, by the command that they answer."""
        self.log = b"unknown func bpf_probe_read_kernel#113\nprocessed 7 insns (limit 1000000)\n"
        self.denied = 0
        """What the helper that reads returns instead of reading."""
        self.runs = 0
        self._maps: dict[int, int] = {}
        self._programs: dict[int, tuple[int, bytes]] = {}

    def loaded(self) -> list[int]:
        """The programs that were not given back."""
        found = []
        for descriptor in self._programs:
            with contextlib.suppress(OSError):
                if "program" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
                    found.append(descriptor)
        return found

    def __call__(self, command: int, attributes: bytearray) -> int:
        if command in self.refuses:
            if command == PROG_LOAD:
                self._tell(attributes)
            raise error(self.refuses[command])
        return {MAP_CREATE: self._create, PROG_LOAD: self._load, PROG_TEST_RUN: self._run}[command](
            attributes
        )

    def _create(self, attributes: bytearray) -> int:
        kind, key, size, entries, flags = struct.unpack_from("=IIIII", attributes)
        assert (kind, key, entries, flags) == (2, 4, 1, 1 << 10)
        if size > 4 << 20:  # array_map_alloc_check before Linux 5.12
            raise error(errno.E2BIG)
        descriptor = os.memfd_create("map")
        os.truncate(descriptor, size)
        self._maps[descriptor] = size
        return descriptor

    def _load(self, attributes: bytearray) -> int:
        kind, count, code, license_ = struct.unpack_from("=IIQQ", attributes)
        (flags,) = struct.unpack_from("=I", attributes, 44)
        assert ctypes.string_at(license_) == b"Dual MIT/GPL"
        # "Syscall programs can only be sleepable", and raw tracepoints never are.
        if kind not in self.types or flags != (1 << 4 if kind == SYSCALL else 0):
            self._tell(attributes)
            raise error(errno.EINVAL)
        descriptor = os.memfd_create("program")
        self._programs[descriptor] = kind, ctypes.string_at(code, count * 8)
        return descriptor

    def _tell(self, attributes: bytearray) -> None:
        level, size, place = struct.unpack_from("=IIQ", attributes, 24)
        if level:
            ctypes.memmove(place, self.log[: size - 1] + b"\0", min(len(self.log) + 1, size))

    def _run(self, attributes: bytearray) -> int:
        (program,) = struct.unpack_from("=I", attributes)
        size, size_out, place, place_out = struct.unpack_from("=IIQQ", attributes, 40)
        assert (size_out, place_out) == (0, 0)
        assert not any(attributes[8:40])
        self.runs += 1
        result = self._interpret(self._programs[program][1], ctypes.string_at(place, size) if size else b"")
        struct.pack_into("=I", attributes, 4, result & 0xFFFFFFFF)
        return 0

    def _interpret(self, code: bytes, context: bytes) -> int:
        """Execute; a pointer is what it points to and how far behind its start."""
        registers: list[Any] = [0] * 11
        registers[1] = ("context", 0, 0)
        at = 0
        while True:
            opcode, both, offset, value = struct.unpack_from("<BBhi", code, at * 8)
            target, source = both & 15, both >> 4
            at += 1
            if opcode == 0x79:  # load 64 bits
                what, _, behind = registers[source]
                assert what == "context"
                registers[target] = struct.unpack_from("=Q", context, behind + offset)[0]
            elif opcode == 0x7B:  # store 64 bits
                what, memory, behind = registers[target]
                assert what == "map"
                os.pwrite(memory, struct.pack("=Q", registers[source]), behind + offset)
            elif opcode == 0x25:  # jump if greater, unsigned
                at += offset if registers[target] > value & U64 else 0
            elif opcode == 0x18:  # load 64 bits that follow, here the address of a map's value
                assert source == 2
                high = struct.unpack_from("<BBhi", code, at * 8)
                assert high == (0, 0, 0, 0)
                registers[target] = ("map", value, 0)
                at += 1
            elif opcode == 0x0F:  # add
                what, memory, behind = registers[target]
                registers[target] = (what, memory, behind + registers[source])
            elif opcode == 0xB7:  # move a number
                registers[target] = value
            elif opcode == 0x85:
                registers[0] = self.task if value == 35 else self._probe_read(value, registers)
            elif opcode == 0x95:
                return int(registers[0])
            else:
                raise AssertionError(f"opcode {opcode:#x} is not known")

    def _probe_read(self, helper: int, registers: list[Any]) -> int:
        assert helper == 113
        what, memory, behind = registers[1]
        size, address = registers[2], registers[3]
        assert what == "map"
        assert behind + size <= self._maps[memory], "the verifier would not have taken this"
        data = None if self.denied else self.memory(address, size)
        os.pwrite(memory, bytes(size) if data is None else data, behind)
        return self.denied or (-errno.EFAULT if data is None else 0)
