"""The ``modules`` table: what is loaded into the kernel."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from drgn.helpers.linux.list import list_for_each_entry

from memdump.kernel.modules import for_each_module
from memdump.kernel.taint import letters
from memdump.kernel.text import decode
from memdump.tables.schema import DETAIL, Address, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drgn import Object

    from memdump.kernel.kernel import Kernel

STATES = {0: "Live", 1: "Loading", 2: "Unloading", 3: "Unformed"}
"""``enum module_state``, in the words of ``/proc/modules``, which does not show the last."""
OWN_REFERENCE = 1
"""``MODULE_REF_BASE``: a module that is loaded holds a reference to itself, which does not count."""
BUILD_ID_SECTION = b".note.gnu.build-id"
MOST_NOTES = 64
MOST_USERS = 4096
LONGEST_NOTE = 4096
NOTE_HEADER = struct.Struct("<III")
"""Of an ELF note: size of the name, size of the description, type (``elf(5)``)."""


@dataclass(frozen=True, slots=True)
class Module:
    """A loaded kernel module, in the order of /proc/modules: the newest first."""

    name: Annotated[str, "Name of the module"]
    size: Annotated[int, "Bytes of memory that its code and data take, as /proc/modules counts them"]
    state: Annotated[str, "Live, Loading, Unloading, or Unformed while it is being read in", DETAIL]
    references: Annotated[int | None, "How often it is in use; null if modules cannot be unloaded", DETAIL]
    used_by: Annotated[str, "Modules that need this one, separated by commas"]
    taints: Annotated[
        str, "How it taints the kernel, in its letters: O out of tree, E unsigned, P proprietary, ..."
    ]
    address: Annotated[Address, "Where its code begins"]
    build_id: Annotated[str | None, "Build id in hex, from its ELF notes"]
    version: Annotated[str | None, "What MODULE_VERSION of its source says"]


@table(Module)
def modules(kernel: Kernel) -> Iterator[Module]:
    """Follow the kernel's list ``modules`` (``kernel/module/``)."""
    for module in for_each_module(kernel, "modules"):
        with kernel.problems.skipping("modules", f"module at {module.value_():#x}"):
            yield _row(kernel, module)


def _row(kernel: Kernel, module: Object) -> Module:
    name = decode(module.name.string_())
    users: list[str] = []
    version = build_id = None
    with kernel.problems.skipping("modules", f"users of {name}"):
        users = _users(kernel, module, name)
    with kernel.problems.skipping("modules", f"version of {name}"):
        version = decode(module.version.string_()) if module.version else None
    with kernel.problems.skipping("modules", f"build id of {name}"):
        build_id = _build_id(module)
    address, size = _memory(module)
    state = module.state.value_()
    return Module(
        name=name,
        size=size,
        state=STATES.get(state, str(state)),
        references=module.refcnt.counter.value_() - OWN_REFERENCE if hasattr(module, "refcnt") else None,
        used_by=",".join(users),
        taints=letters(module.taints.value_()),
        address=address,
        build_id=build_id,
        version=version,
    )


def _memory(module: Object) -> tuple[int, int]:
    """Where the code begins, and the size of all its memory."""
    # From 6.4 on, one piece of memory per kind; the first kind is MOD_TEXT.
    pieces = list(module.mem) if hasattr(module, "mem") else [module.core_layout, module.init_layout]
    return pieces[0].base.value_(), sum(piece.size.value_() for piece in pieces)


def _users(kernel: Kernel, module: Object, name: str) -> list[str]:
    if not hasattr(module, "source_list"):  # CONFIG_MODULE_UNLOAD is off
        return []
    uses = list_for_each_entry("struct module_use", module.source_list.address_of_(), "source_list")
    found: dict[str, None] = {}
    for use in kernel.problems.walk("modules", f"users of {name}", uses, MOST_USERS):
        user = decode(use.source.name.string_())
        if user in found:
            kernel.problems.add("modules", f"users of {name}", f"the list runs into itself at {user}")
            break
        found[user] = None
    return list(found)


def _build_id(module: Object) -> str | None:
    """The build id in the note section that ``/sys/module/NAME/notes`` shows; it stays in memory for that."""
    notes = module.notes_attrs.read_()
    for number in range(_note_count(notes) if notes else 0):
        note = notes.attrs[number]
        if note.attr.name.string_() == BUILD_ID_SECTION:
            size = min(note.size.value_(), LONGEST_NOTE)
            return description(module.prog_.read(note.private, size))
    return None


def _note_count(notes: Object) -> int:
    if hasattr(notes, "notes"):
        return min(int(notes.notes), MOST_NOTES)
    # From 6.14 on there is no count, but a list of pointers that ends with a null.
    attributes = notes.grp.bin_attrs
    return next(number for number in range(MOST_NOTES + 1) if number == MOST_NOTES or not attributes[number])


def description(note: bytes) -> str:
    """The content of an ELF note, in hex; raises `ValueError` for a note that is cut off."""
    name_size, size, _ = NOTE_HEADER.unpack(note[: NOTE_HEADER.size].ljust(NOTE_HEADER.size, b"\xff"))
    start = NOTE_HEADER.size + (name_size + 3 & ~3)
    if start + size > len(note):
        raise ValueError("the ELF note is longer than its section")
    return note[start : start + size].hex()
