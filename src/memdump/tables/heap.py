"""The memory of a process in which a shell's history is looked for, and what is found there."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

WORD = 8
PAGE = 4096


class Line(NamedTuple):
    """A history entry as it stands in memory."""

    address: int
    seconds: int | None
    """When, in seconds since 1970; None where the shell itself does not know."""
    text: bytes


class Heap:
    """Memory in pieces, each with its address: none overlap, and all begin and end with a page."""

    def __init__(self, memory: Iterable[tuple[int, bytes]]) -> None:
        self.pieces = list(memory)
        self.size = sum(len(data) for _, data in self.pieces)
        self.pages = {
            (start + offset) // PAGE: memoryview(data)[offset : offset + PAGE].cast("Q")
            for start, data in self.pieces
            for offset in range(0, len(data), PAGE)
        }
        """The words of each page, by its number."""

    def word(self, address: int) -> int | None:
        """The word at an address that is a multiple of its size; None where that is not in memory."""
        page = self.pages.get(address // PAGE)
        return None if page is None else page[address % PAGE // WORD]

    def has(self, address: int) -> bool:
        """Whether the byte at an address is there."""
        return address // PAGE in self.pages

    def string(self, address: int) -> bytes | None:
        """The string at an address; None where it has no beginning or no end."""
        for start, data in self.pieces:
            if start <= address < start + len(data):
                end = data.find(b"\0", address - start)
                return data[address - start : end] if end >= 0 else None
        return None

    def lines(self, entries: Iterable[tuple[int, int | None, int]]) -> list[Line]:
        """Lines from their address, time and the address of their text.

        All texts together are no longer than memory unless they are forged to be the same over and over: then
        there are no more.
        """
        found = []
        left = self.size
        for address, seconds, place in entries:
            text = self.string(place)
            if text is not None:
                left -= len(text)
                if left < 0:
                    break
                found.append(Line(address, seconds, text))
        return found
