"""A kernel inside an image: its types, symbols and memory, as one `drgn.Program`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from memdump.image import told
from memdump.kernel import facts, modules
from memdump.kernel.location import Location, find_kernel
from memdump.kernel.paths import Paths
from memdump.kernel.problems import NoKernel, Problems
from memdump.kernel.program import direct_map_base, make_program
from memdump.kernel.typefinder import install

if TYPE_CHECKING:
    from collections.abc import Iterator

    import drgn

    from memdump.image.base import Image
    from memdump.kernel.btf import Btf
    from memdump.kernel.symbols import SymbolTable


class Kernel:
    """An image understood.  What is missing is noted in `problems`, and the rest still works."""

    architecture = "x86_64"

    def __init__(self, image: Image, location: Location) -> None:
        self.image = image
        self.location = location
        self.problems = Problems()
        for defect in image.defects:
            self.problems.add("", str(image.path), defect)
        self.build_id, self.symbols, self.btf, info = facts.of_kernel(image, location, self.problems)
        self.direct_map = direct_map_base(image, location, self.symbols)
        self.vmcoreinfo: bytes = info.text
        """The VMCOREINFO text: the kernel's own, or one made up from what else is known."""
        self.release: str = info.release or "unknown"

    @classmethod
    def find(cls, image: Image) -> Kernel:
        """Find the kernel in an image; raises `NoKernel`."""
        location = find_kernel(image)
        if location is None:
            machine = told.architecture(image)
            if machine not in (None, cls.architecture):
                raise NoKernel(
                    f"{image.path}: memory of {machine}, and memdump makes out kernels of x86-64 only"
                    " (info, verify and convert work all the same)"
                )
            raise NoKernel(
                f"{image.path}: no Linux kernel for x86-64 found in this {image.format} image "
                f"({image.size} bytes of memory): is it a whole dump, and of such a system?"
            )
        return cls(image, location)

    @cached_property
    def program(self) -> drgn.Program:
        """The program that drgn's helpers work on."""
        program = make_program(self.image, self.location, self.vmcoreinfo, self.direct_map)
        install(program, self._all_btfs, self._all_symbols)
        return program

    @cached_property
    def paths(self) -> Paths:
        """The paths of files; raises `LookupError` where the kernel's types are not known."""
        return Paths(self.program, self.problems)

    @property
    def kaslr_offset(self) -> int:
        """How far KASLR has moved the kernel's virtual addresses, in bytes."""
        return self.location.virtual - facts.LINK_ADDRESS

    @cached_property
    def module_btfs(self) -> list[Btf]:
        """The BTF of every loaded module that has one."""
        return modules.load_btfs(self) if self.btf else []

    @cached_property
    def module_symbols(self) -> SymbolTable:
        """The kallsyms of all loaded modules together."""
        return modules.load_symbols(self)

    def _all_btfs(self) -> Iterator[Btf]:
        if self.btf:
            yield self.btf
            yield from self.module_btfs

    def _all_symbols(self) -> Iterator[SymbolTable]:
        yield self.symbols
        if self.btf:
            yield self.module_symbols
