"""Kernel memory by its virtual address, through programs that the kernel runs for us.

Such a program is a few instructions that copy from an address into a map that this process shares with the
kernel.  It is attached to nothing and runs only when we ask for it; when we end, it is gone.
"""

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import platform
import sys
from typing import Optional

from memdump.machine import bpf
from memdump.machine.bpf import Call, Program, instruction
from memdump.machine.pieces import BLOCK

_GET_CURRENT_TASK, _PROBE_READ_KERNEL = 35, 113
_TAG = 0xFF << 56
_LENT = 2 * BLOCK
"""Bytes that are lent as buffers: as much as ever is in use, and as kernels before 5.12 put into a map."""


def copying(memory: int, size: int) -> bytes:
    """Assemble the program that copies into a map of ``size`` bytes, of which ``memory`` is the descriptor.

    Its context is three numbers: a virtual address, a size of up to `BLOCK`, and a place in the map.  It
    returns what the helper returns, 0 or a negative error.
    """
    return b"".join(
        (
            instruction(0x79, target=3, source=1, offset=0),  # r3 = context[0], the address
            instruction(0x79, target=2, source=1, offset=8),  # r2 = context[1], the size
            instruction(0x79, target=4, source=1, offset=16),  # r4 = context[2], the place
            # The verifier must see that all of it lies in the map.
            instruction(0x25, target=2, offset=6, value=BLOCK),  # if r2 > BLOCK, go to the last two
            instruction(0x25, target=4, offset=5, value=size - BLOCK),  # if r4 > size - BLOCK, too
            _map_value(1, memory),  # r1 = the map's value; counts as two
            instruction(0x0F, target=1, source=4),  # r1 += r4
            instruction(0x85, value=_PROBE_READ_KERNEL),  # r0 = bpf_probe_read_kernel(r1, r2, r3)
            instruction(0x95),  # return r0
            instruction(0xB7, target=0, value=-errno.EINVAL),  # r0 = -EINVAL
            instruction(0x95),
        )
    )


def asking(memory: int) -> bytes:
    """Assemble the program that puts the address of the running task into the map."""
    return b"".join(
        (
            instruction(0x85, value=_GET_CURRENT_TASK),  # r0 = bpf_get_current_task()
            _map_value(1, memory),
            instruction(0x7B, target=1, source=0),  # value[0] = r0
            instruction(0xB7, target=0, value=0),  # r0 = 0
            instruction(0x95),
        )
    )


def _map_value(target: int, memory: int) -> bytes:
    """Load the address of a map's value (BPF_LD_IMM64 with BPF_PSEUDO_MAP_VALUE)."""
    return instruction(0x18, target=target, source=2, value=memory) + instruction(0)


def untagged(address: int, machine: str) -> int:
    """Take the tag out of an address that the kernel has given for its own use.

    Kernels of arm64 that check their accesses by tags (CONFIG_KASAN_HW_TAGS, CONFIG_KASAN_SW_TAGS: some
    phones) keep one in the topmost byte, of which all ones fit everything
    (``arch/arm64/include/asm/memory.h``, ``__tag_reset``).
    """
    return address | _TAG if machine == "aarch64" else address


class KernelMemory:
    """Reads kernel memory."""

    def __init__(self, call: Call) -> None:
        """Load the programs; raises ``OSError``, of which `bpf.Refused` is a kind."""
        try:
            self._start(call, bpf.SYSCALL)
        except OSError:  # before Linux 5.14
            self._start(call, bpf.RAW_TRACEPOINT)

    def _start(self, call: Call, kind: int) -> None:
        with contextlib.ExitStack() as opened:
            self._passing = _Window(call, kind, BLOCK)
            opened.callback(self._passing.close)
            self._lent = _Window(call, kind, _LENT)
            opened.callback(self._lent.close)
            self._free = self._lent.value
            self.kind = bpf.NAMES[kind]
            self.task = untagged(self._passing.task(), platform.machine())
            """Address of the task that runs this."""
            self._opened = opened.pop_all()

    def lend(self, size: int) -> Optional[memoryview]:
        """Give a buffer that a program fills itself, which saves a copy, as long as there is room for any."""
        if size > len(self._free):
            return None
        given, self._free = self._free[:size], self._free[size:]
        return given

    def read_into(self, address: int, buffer: memoryview) -> None:
        """Fill ``buffer``; raises ``OSError`` where part of it cannot be read."""
        for start in range(0, len(buffer), BLOCK):
            part = buffer[start : start + BLOCK]
            place = self._lent.place(part)
            if place is not None:
                self._lent.fill(address + start, len(part), place)
            else:
                self._passing.fill(address + start, len(part), 0)
                part[:] = self._passing.value[: len(part)]

    def read(self, address: int, size: int) -> Optional[bytes]:
        """Give ``size`` bytes, or None where they cannot be read."""
        data = bytearray(size)
        try:
            self.read_into(address, memoryview(data))
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            return None
        return bytes(data)

    def close(self) -> None:
        """Give maps and programs back; the kernel keeps nothing of them once no buffer is in use."""
        self._opened.close()


class _Window:
    """A map that is mapped here, and the program that fills it."""

    def __init__(self, call: Call, kind: int, size: int) -> None:
        self._load = functools.partial(Program, call, kind)
        self._size = size
        with contextlib.ExitStack() as opened:
            self._memory = bpf.create_map(call, size)
            opened.callback(os.close, self._memory)
            self.value = memoryview(mmap.mmap(self._memory, size))
            self._address = _address(self.value)
            self._copying = self._load(copying(self._memory, size), 3)
            opened.callback(self._copying.close)
            self._opened = opened.pop_all()

    def task(self) -> int:
        """Ask for the address of the running task."""
        with contextlib.closing(self._load(asking(self._memory), 0)) as program:
            program.run()
        return int.from_bytes(self.value[:8], sys.byteorder)

    def place(self, buffer: memoryview) -> Optional[int]:
        """Give the place of a buffer in the map, if it is one at which the program may begin."""
        place = _address(buffer) - self._address
        return place if 0 <= place <= self._size - BLOCK else None

    def fill(self, address: int, size: int, place: int) -> None:
        """Copy; raises ``OSError`` where part of it cannot be read."""
        result = self._copying.run(address, size, place)
        if result:
            raise OSError(-result, os.strerror(-result))

    def close(self) -> None:
        """Give map and program back."""
        self._opened.close()


def _address(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
