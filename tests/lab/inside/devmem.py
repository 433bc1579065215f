"""Read the memory of the guest through ``/dev/mem``, after the host has made its kernel give all of it.

Debian's kernels restrict ``/dev/mem``, as most do.  Those that do not differ in one function, which says of
each page whether it may be read: the host changes it.

``python -m tests.lab.inside.devmem FOLDER`` leaves ``devmem.json`` and ``devmem.crc`` there: the CRC-32 of
each page, in the order of the ranges.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from memdump.machine import sources as memdump_sources
from memdump.machine.devmem import DevmemSource
from memdump.machine.kcore import KcoreSource
from tests.lab.inside import sources


def main(folder: str) -> None:
    with contextlib.closing(KcoreSource()) as kcore, contextlib.closing(DevmemSource()) as devmem:
        compared = sources.compare(sources.Reader(kcore), sources.Reader(devmem), Path(folder, "devmem.crc"))
        vmcoreinfo = [kcore.vmcoreinfo, devmem.vmcoreinfo]
    with sources.masked_kcore():
        chosen = memdump_sources.open_source("auto")
        chosen.source.close()
    report = {"compared": compared, "vmcoreinfo": vmcoreinfo, "masked": chosen.source.name}
    Path(folder, "devmem.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
