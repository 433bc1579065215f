"""AVML's compressed format: LiME with each range in Snappy frames.

A block is a 32-byte header (magic ``AVML``, version 2, first and last address, eight zero bytes), a stream of
the Snappy framing format that gives exactly the range, and the length of that stream as eight bytes.  AVML
makes blocks of up to 16 MiB and leaves out those that are all zero; older versions made one block of each
range. Layouts: microsoft/avml ``src/image.rs`` and ``src/io/snappy.rs``, google/snappy
``framing_format.txt``.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import struct
from array import array
from typing import TYPE_CHECKING, NamedTuple

from memdump.errors import NotADump
from memdump.image.base import Image, MissingMemory
from memdump.image.content import Damaged, unpack
from memdump.image.segments import Segment, disjoint
from memdump.machine.source import Range

if TYPE_CHECKING:
    from pathlib import Path

    from memdump.image.content import Content

SIGNATURE = b"AVML"
HEADER = struct.Struct("<4sIQQ8x")
VERSION = 2
LENGTH = struct.Struct("<Q")

STREAM_START = b"\xff\x06\x00\x00sNaPpY"
COMPRESSED, PLAIN, LAST_UNSKIPPABLE = 0x00, 0x01, 0x7F
CHECKSUM = 4
FRAME_LIMIT = 65536
"""A frame holds no more than this once it is decompressed, says the framing format."""

SMALLEST_MEAN, MOST_ODD = 4096, 256
"""AVML fills its frames; a block of nothing but tiny ones is there to use up time and memory."""

CACHED_FRAMES = 1024
CACHED_INDEXES = 1024


class Block(NamedTuple):
    """A range of memory and the Snappy stream that gives it."""

    start: int
    size: int
    stream: int
    """Offset of the stream in the file."""
    length: int
    """Length of the stream in the file."""


class Frames(NamedTuple):
    """The frames of a block: the n-th gives the bytes from ``places[n]`` and stands at ``offsets[n]``."""

    places: array[int]
    offsets: array[int]
    size: int
    """Bytes that all frames give."""
    end: int
    """Offset behind the last frame."""


class AvmlImage(Image):
    """An image that AVML compressed; blocks are found at once, their frames when they are first read."""

    format = "avml"

    def __init__(self, path: Path, content: Content) -> None:
        self.path = path
        self.defects = []
        self._content = content
        self._blocks = _blocks_backward(content) or _blocks_forward(content, self.defects)
        if not self._blocks:
            raise NotADump(
                f"{path}: begins like an AVML image but holds no memory: {self.defects[0]}; take it again"
            )
        # `offset` counts decompressed bytes here: the blocks one behind the other.
        claimed, position = [], 0
        self._positions = []
        for block in self._blocks:
            claimed.append(Segment(block.start, block.size, position))
            self._positions.append(position)
            position += block.size
        self._segments = disjoint(claimed)
        self.ranges = tuple(Range(found.start, found.size) for found in self._segments)
        if (lost := position - self.size) > 0:
            self.defects.append(f"ranges overlap: {lost} bytes are given twice, the first copy is used")
        self._frames = functools.lru_cache(CACHED_INDEXES)(self._index)
        self._frame = functools.lru_cache(CACHED_FRAMES)(self._decompress)

    def _index(self, block: int) -> Frames:
        found = self._blocks[block]
        return _frames(self._content, found.stream, found.stream + found.length, found.size)

    def _decompress(self, block: int, frame: int) -> bytes:
        """One frame, with its checksum proved; raises `ValueError` where it is damaged."""
        import cramjam

        frames = self._frames(block)
        offset = frames.offsets[frame]
        end = frames.offsets[frame + 1] if frame + 1 < len(frames.offsets) else frames.end
        try:
            data = bytes(cramjam.snappy.decompress(STREAM_START + self._content[offset:end]))
        except (cramjam.DecompressionError, Damaged) as error:
            raise ValueError(str(error)) from None
        after = frames.places[frame + 1] if frame + 1 < len(frames.places) else frames.size
        if len(data) != after - frames.places[frame]:
            raise ValueError("a frame of another size than it says")
        return data

    def _read_within(self, index: int, offset: int, size: int) -> bytes | memoryview:
        segment = self._segments[index]
        position = segment.offset + offset
        block = bisect.bisect_right(self._positions, position) - 1
        within = position - self._positions[block]
        frames = self._frames(block)
        parts = []
        address, left = segment.start + offset, size
        while left:
            if within >= frames.size:
                raise MissingMemory(address, left)
            frame = bisect.bisect_right(frames.places, within) - 1
            try:
                data = self._frame(block, frame)
            except ValueError:
                after = frames.places[frame + 1] if frame + 1 < len(frames.places) else frames.size
                raise MissingMemory(address, min(left, after - within)) from None
            skip = within - frames.places[frame]
            part = data[skip : skip + left] if skip or left < len(data) else data
            parts.append(part)
            within, address, left = within + len(part), address + len(part), left - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Unmap and close the file."""
        self._frame.cache_clear()
        self._frames.cache_clear()
        self._content.close()


def _header(content: Content, offset: int) -> Range | None:
    fields = unpack(content, HEADER, offset)
    if fields is None:
        return None
    magic, version, start, last = fields
    return (
        Range(start, last - start + 1) if (magic, version) == (SIGNATURE, VERSION) and last >= start else None
    )


def _blocks_backward(content: Content) -> list[Block]:
    """Go from the lengths at the ends of the blocks to their beginnings; nothing unless that fits exactly.

    This looks at two places for each 16 MiB, where the way forward has to look at every frame.
    """
    blocks = []
    end = len(content)
    while end > 0:
        (length,) = unpack(content, LENGTH, end - LENGTH.size) or (0,) if end >= LENGTH.size else (0,)
        stream = end - LENGTH.size - length
        begin = stream - HEADER.size
        found = _header(content, begin) if begin >= 0 else None
        if found is None or found.size > _most(length):
            return []
        blocks.append(Block(found.start, found.size, stream, length))
        end = begin
    blocks.reverse()
    return blocks


def _most(length: int) -> int:
    """Give the most memory that so many bytes can hold: Snappy's best is a copy of 64 bytes in three."""
    return length * 22


def _blocks_forward(content: Content, defects: list[str]) -> list[Block]:
    """Go from frame to frame, for a file that is torn; stop where there is no more sense to be had."""
    blocks = []
    offset = 0
    while offset < len(content):
        found = _header(content, offset)
        if found is None:
            defects.append(f"no AVML block at offset {offset:#x}; the rest is left out")
            break
        stream = offset + HEADER.size
        frames = _frames(content, stream, len(content), found.size)
        if frames.size:
            blocks.append(Block(found.start, frames.size, stream, frames.end - stream))
        if frames.size < found.size:
            defects.append(
                f"truncated or damaged: the range at physical {found.start:#x} has {frames.size}"
                f" of {found.size} bytes in the file"
            )
            break
        offset = frames.end + LENGTH.size
    return blocks


def _frames(content: Content, offset: int, limit: int, size: int) -> Frames:
    """Find the frames of a block, up to ``size`` decompressed bytes or to where they make no sense."""
    places, offsets = array("Q"), array("Q")
    total, end = 0, offset
    for seen in itertools.count():
        if total >= size or offset + 4 > limit or seen > MOST_ODD + total // SMALLEST_MEAN:
            break
        head = content[offset : offset + 4 + CHECKSUM + 3]
        kind, length = head[0], int.from_bytes(head[1:4], "little")
        following = offset + 4 + length
        if following > limit:
            break
        if kind in (COMPRESSED, PLAIN):
            holds = length - CHECKSUM if kind == PLAIN else _varint(head[8:])
            if not 0 < holds <= min(FRAME_LIMIT, _most(length)):
                break
            places.append(total)
            offsets.append(offset)
            total += holds
            end = following
        elif kind <= LAST_UNSKIPPABLE:
            break
        offset = following
    return Frames(places, offsets, min(total, size), end)


def _varint(data: bytes) -> int:
    """Give the size that a Snappy block begins with; three bytes are enough for any that is allowed."""
    value = 0
    for position, byte in enumerate(data[:3]):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value
    return -1
