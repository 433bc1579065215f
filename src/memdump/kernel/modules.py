"""The types and symbols that loaded modules bring along."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from drgn.helpers.linux.list import list_for_each_entry

from memdump.kernel.btf import BadBtf, Btf
from memdump.kernel.symbols import SymbolTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drgn import Object

    from memdump.kernel.kernel import Kernel

MOST_MODULES = 4096
LARGEST_BTF = 64 << 20
MOST_SYMBOLS = 1 << 20
LARGEST_STRINGS = 64 << 20
ELF_SYMBOL = struct.Struct("<IBBHQQ")


def for_each_module(kernel: Kernel, purpose: str) -> Iterator[Object]:
    """Yield every loaded ``struct module *``; ``purpose`` is what will be missing where the list is torn."""
    program = kernel.program
    entries = list_for_each_entry("struct module", program["modules"].address_of_(), "list")
    return kernel.problems.walk(purpose, "list of modules", entries, MOST_MODULES)


def load_btfs(kernel: Kernel) -> list[Btf]:
    """The BTF of each module that has one (from Linux 5.11 on), as ``kernel/bpf/btf.c`` keeps it."""
    program, problems = kernel.program, kernel.problems
    found: list[Btf] = []
    if kernel.symbols.address_of("btf_modules") is None:
        return found
    with problems.skipping("", "BTF of modules"):
        head = program["btf_modules"].address_of_()
        entries = list_for_each_entry("struct btf_module", head, "list")
        for entry in problems.walk("", "list of module BTF", entries, MOST_MODULES):
            name = entry.module.name.string_().decode("utf-8", "replace")
            with problems.skipping("", f"BTF of module {name}"):
                size = entry.btf.data_size.value_()
                if size > LARGEST_BTF:
                    raise BadBtf(f"size of {size} bytes is absurd")
                found.append(Btf(program.read(entry.btf.data, size), base=kernel.btf))
    return found


def load_symbols(kernel: Kernel) -> SymbolTable:
    """The symbols of all modules, from the tables that ``kernel/module/kallsyms.c`` keeps."""
    symbols: list[tuple[int, bytes]] = []
    with kernel.problems.skipping("", "symbols of modules"):
        for module in for_each_module(kernel, ""):
            name = module.name.string_().decode("utf-8", "replace")
            with kernel.problems.skipping("", f"symbols of module {name}"):
                symbols += _symbols_of(module)
    return SymbolTable.build([address for address, _ in symbols], [name for _, name in symbols])


def _symbols_of(module: Object) -> list[tuple[int, bytes]]:
    program, tables = module.prog_, module.kallsyms
    count = tables.num_symtab.value_()
    if count > MOST_SYMBOLS:
        raise ValueError(f"{count} symbols are absurd")
    if not count:
        return []
    entries = list(ELF_SYMBOL.iter_unpack(program.read(tables.symtab, count * ELF_SYMBOL.size)))
    kinds = program.read(tables.typetab, count) if hasattr(tables, "typetab") else b"?" * count
    last = max(entry[0] for entry in entries)
    if last > LARGEST_STRINGS:
        raise ValueError(f"{last} bytes of names are absurd")
    names = program.read(tables.strtab, last) + program.read_c_string(tables.strtab.value_() + last) + b"\0"
    return [
        (address, kinds[number : number + 1] + names[name : names.find(b"\0", name)])
        for number, (name, _, _, section, address, _) in enumerate(entries)
        if name and section
    ]
