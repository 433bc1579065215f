"""Runs of pages out of a bitmap with one bit for each page, lowest bit first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.image.content import Content

STEP = 1 << 18
"""Bytes of bitmap looked at in one go: 8 GiB of 4 KiB pages."""
ONES = re.compile("1+")


def runs(content: Content, offset: int, pages: int) -> Iterator[tuple[int, int]]:
    """Give the runs of set bits as (first page, number of pages), ascending; as far as the file goes."""
    first = count = 0
    for base in range(0, pages, STEP * 8):
        take = min(STEP * 8, pages - base)
        data = content[offset + base // 8 : offset + (base + take + 7) // 8]
        # The digits of the number in base two, from the last one: the regular expression then finds the runs
        # at the speed of C.
        digits = f"{int.from_bytes(data, 'little'):b}"[::-1][:take]
        for match in ONES.finditer(digits):
            begin, end = match.span()
            if count and base + begin == first + count:
                count += end - begin
                continue
            if count:
                yield first, count
            first, count = base + begin, end - begin
    if count:
        yield first, count
