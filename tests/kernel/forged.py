"""A kernel's memory made by hand: structures with the members that a test needs, where it wants them."""

from __future__ import annotations

from typing import Any

import drgn

BASE = 0xFFFF_8880_0000_0000
INTEGERS = {"u8": (1, False), "u16": (2, False), "u32": (4, False), "u64": (8, False), "s64": (8, True)}


class Forged:
    """A program whose types are ``{"struct x": {"member": "u64"}}``, and memory to put them into.

    A member is one of `INTEGERS`, ``struct y``, ``struct y *``, or ``char [N]``.
    """

    def __init__(self, types: dict[str, dict[str, str]], size: int = 1 << 16) -> None:
        self.memory = bytearray(size)
        self.program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
        self._types = types
        self._made: dict[str, drgn.Type] = {}
        self._free = 0x100
        self.program.register_type_finder("forged", self._find, enable_index=0)
        self.program.add_memory_segment(BASE, size, self._read)

    def allocate(self, size: int) -> int:
        """The address of memory that nothing else has."""
        address = BASE + self._free
        self._free += size + -size % 64
        return address

    def put(self, type_name: str, address: int | None = None, /, **members: int) -> int:
        """Write a structure, with zeros but for ``members`` (``a__b`` is ``a.b``), and return its address."""
        type_ = self._type(type_name)
        if address is None:
            address = self.allocate(drgn.sizeof(type_))
        for name, value in members.items():
            designator = name.replace("__", ".")
            place = address - BASE + drgn.offsetof(type_, designator)
            size = drgn.sizeof(self._member(type_, designator))
            self.memory[place : place + size] = value.to_bytes(size, "little", signed=value < 0)
        return address

    def write(self, address: int, content: bytes) -> None:
        self.memory[address - BASE : address - BASE + len(content)] = content

    def string(self, content: bytes) -> int:
        """The address of a string."""
        address = self.allocate(len(content) + 1)
        self.write(address, content + b"\0")
        return address

    def offset(self, type_name: str, member: str) -> int:
        found: int = drgn.offsetof(self._type(type_name), member)
        return found

    def _member(self, type_: drgn.Type, designator: str) -> drgn.Object:
        found: Any = drgn.Object(self.program, type_, address=0)
        for name in designator.split("."):
            found = found.member_(name)
        return found

    def _read(self, address: int, size: int, offset: int, physical: bool) -> bytes:
        if offset + size > len(self.memory):
            raise drgn.FaultError("not forged", address)
        return bytes(self.memory[offset : offset + size])

    def _find(
        self, program: drgn.Program, kinds: drgn.TypeKindSet, name: str, filename: str | None
    ) -> drgn.Type | None:
        return self._type(f"struct {name}") if f"struct {name}" in self._types else None

    def _type(self, name: str) -> drgn.Type:
        program = self.program
        if name.endswith(" *"):
            return program.pointer_type(self._type(name[:-2]))
        if name.startswith("char ["):
            return program.array_type(program.int_type("char", 1, True), int(name[6:-1]))
        if name == "char":
            return program.int_type("char", 1, True)
        if name in INTEGERS:
            return program.int_type(name, *INTEGERS[name])
        if name not in self._made:
            if name not in self._types:
                return program.struct_type(name.removeprefix("struct "))
            members, end = [], 0
            for member, type_name in self._types[name].items():
                size = self._size(type_name)
                end += -end % min(size, 8)
                members.append(drgn.TypeMember(self._later(type_name), member, end * 8))
                end += size
            self._made[name] = program.struct_type(name.removeprefix("struct "), end, members)
        return self._made[name]

    def _later(self, name: str) -> Any:
        """A type that is made when it is looked at, because structures point to one another."""
        return lambda: drgn.Object(self.program, self._type(name), address=0)

    def _size(self, name: str) -> int:
        if name.endswith(" *"):
            return 8
        if name.startswith("char ["):
            return int(name[6:-1])
        if name in INTEGERS:
            return INTEGERS[name][0]
        found: int = drgn.sizeof(self._type(name))
        return found
