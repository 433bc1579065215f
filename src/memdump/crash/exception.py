"""The C++ exception that nobody caught: its type and what it says.

``std::terminate`` ends the process while the exception is on the heap, with pointers to it on the stack.  In
front of it stands a header that says what made it (Itanium C++ ABI, Exception Handling, 2.2):

    __cxa_exception { type_info *type; ... ; _Unwind_Exception { uint64 class; ... } }  object

Offsets are those of 64-bit systems, from ``class`` on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memdump.crash.demangle import demangle_type

if TYPE_CHECKING:
    from memdump.crash.program import CrashProgram

CLASSES = {b"GNUCC++\0": "libstdc++", b"CLNGC++\0": "libc++"}
"""``exception_class`` as a big-endian number: vendor and language."""
TYPE, OBJECT = -0x50, 0x20
SEARCHED = 1 << 14
"""Bytes of stack, from its top on, that are searched for a pointer to an exception."""
MOST_BASES = 32
SINGLE_BASE = "__si_class_type_info"
WITH_MESSAGE = ("St13runtime_error", "St11logic_error")
"""Of the standard library; they and all that derive from them keep their message behind the vtable."""
LONGEST_MESSAGE = 1024
LONGEST_NAME = 2048
STRING = "NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
LONGEST_STRING = 1 << 20
NUMBERS = {"i": "i", "j": "I", "l": "q", "m": "Q", "x": "q", "y": "Q", "s": "h", "t": "H", "b": "?", "d": "d"}
"""Encodings of fundamental types (Itanium C++ ABI, 5.1.5.2), as `struct` spells them."""


@dataclass(frozen=True, slots=True)
class Thrown:
    """An exception that was thrown."""

    type: str
    message: str
    """What ``what()`` gives, or a text or number that was thrown itself; empty where it is not known."""
    address: int


def uncaught(program: CrashProgram, stack_pointer: int) -> Thrown | None:
    """The exception that a thread was throwing, whose stack is this."""
    region = program.core.region(stack_pointer)
    if region is None or program.core.bits != 64:
        return None
    stack = program.read(stack_pointer, min(SEARCHED, region.end - stack_pointer) // 8 * 8) or b""
    order = program.core.order
    seen = set()
    for (word,) in struct.iter_unpack(f"{order}Q", stack):
        if word in seen or word % 8 or word < TYPE * -1:
            continue
        seen.add(word)
        for header in (word, word - OBJECT):
            if found := _exception_at(program, header):
                return found
    return None


def _exception_at(program: CrashProgram, header: int) -> Thrown | None:
    mark = program.read(header, 8)
    made_by = mark and (mark if program.core.order == ">" else mark[::-1])
    if made_by not in CLASSES:
        return None
    type_info = program.word(header + TYPE)
    name = _type_name(program, type_info) if type_info else ""
    if not type_info or not name:
        return None
    thrown = header + OBJECT
    return Thrown(demangle_type(name), _message(program, type_info, name, thrown), thrown)


def _type_name(program: CrashProgram, type_info: int) -> str:
    """``std::type_info``: a vtable, then the name; a leading ``*`` says that it is unique by its address."""
    pointer = program.word(type_info + 8)
    name = program.text(pointer, LONGEST_NAME) if pointer else None
    return name.lstrip("*") if name and name.isprintable() else ""


def _message(program: CrashProgram, type_info: int, name: str, thrown: int) -> str:
    if name in NUMBERS:
        form = struct.Struct(program.core.order + NUMBERS[name])
        data = program.read(thrown, form.size)
        return str(form.unpack(data)[0]) if data else ""
    if name in ("PKc", "Pc"):
        return _text_of(program, program.word(thrown))
    if name == STRING:
        return _string(program, thrown)
    if any(base in WITH_MESSAGE for base in _bases(program, type_info, name)):
        return _text_of(program, program.word(thrown + 8))
    return ""


def _bases(program: CrashProgram, type_info: int, name: str) -> list[str]:
    """The class and its bases, as long as each has one: ``__si_class_type_info`` has it at 16."""
    found = [name]
    for _ in range(MOST_BASES):
        table = program.word(type_info)
        if not table or SINGLE_BASE not in (program.symbol_at(table) or SINGLE_BASE):
            break
        base = program.word(type_info + 16)
        name = _type_name(program, base) if base else ""
        if not base or not name or not name[0].isalnum():
            break
        found.append(name)
        type_info = base
    return found


def _text_of(program: CrashProgram, pointer: int | None) -> str:
    return (program.text(pointer, LONGEST_MESSAGE) or "") if pointer else ""


def _string(program: CrashProgram, at: int) -> str:
    """``std::string`` of libstdc++: where its text is, and how long it is."""
    pointer, size = program.word(at), program.word(at + 8)
    if not pointer or size is None or size > LONGEST_STRING:
        return ""
    data = program.read(pointer, min(size, LONGEST_MESSAGE))
    return data.decode(errors="surrogateescape") if data else ""
