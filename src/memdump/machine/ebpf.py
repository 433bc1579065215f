"""Physical memory for kernels that have no ``/proc/kcore``: read by BPF programs, through the direct map."""

from typing import Optional

from memdump.errors import NotPermitted
from memdump.machine import bpf, bpf_refusal, direct_map, vmcoreinfo
from memdump.machine.bpf import Call
from memdump.machine.direct_map import HERE, Places
from memdump.machine.kernel_memory import KernelMemory
from memdump.machine.ram import RamSource


class EbpfSource(RamSource):
    """Reads system RAM through the kernel's direct map of it."""

    name = "ebpf"

    def __init__(self, places: Places = HERE, call: Optional[Call] = None) -> None:
        """Load the programs and find the direct map.

        Raises `NotPermitted` with what would permit it, and `NotADump` where the direct map is not to be had.
        """
        super().__init__(places.iomem)
        memory: Optional[KernelMemory] = None
        try:
            bpf.lift_memory_limit()
            memory = KernelMemory(call or bpf.system_call())
            found = direct_map.find(memory.read, memory.task, self._ranges, places)
            self._memory, self._distance = memory, found.distance
            self.evidence = f"{memory.kind}; direct map at {found.distance:#x}: {found.evidence}"
            self.vmcoreinfo = vmcoreinfo.read(self)
        except BaseException as error:
            if memory:
                memory.close()
            if isinstance(error, OSError):
                raise NotPermitted(bpf_refusal.explain(error)) from None
            raise

    def buffer(self, size: int) -> memoryview:
        """Give a buffer that is filled without a detour, as long as there are any."""
        return self._memory.lend(size) or super().buffer(size)

    def _read(self, address: int, buffer: memoryview) -> None:
        self._memory.read_into(address + self._distance, buffer)

    def close(self) -> None:
        """Give map and programs back."""
        self._memory.close()
