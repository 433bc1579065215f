"""Questions to the far end, asked before their answers are wanted: else each would wait for the line."""

import collections
import itertools
import zlib
from typing import Deque, Dict, List, Protocol, Sequence, Type, Union, cast

from memdump.errors import MemdumpError, NotADump, NotPermitted, UsageError
from memdump.machine import document, ssh_wire
from memdump.machine.document import Fields
from memdump.machine.source import Range

_AHEAD = 8 << 20
"""Bytes that may be on their way: on a line of 1 Gbit/s, enough for 60 ms there and back."""
_UNANSWERED = 256
"""Questions at most: with more than a pipe holds, both ends would wait for each other."""
_ERRORS: Dict[str, Type[MemdumpError]] = {
    kind.__name__: kind for kind in (MemdumpError, UsageError, NotADump, NotPermitted)
}


class Line(Protocol):
    """The connection to the far end."""

    destination: str

    def send(self, data: bytes) -> None:
        """Send all of ``data``."""

    def receive(self, size: int) -> bytearray:
        """Receive exactly so many bytes."""


class _Read:
    """Memory that is going to be wanted."""

    def __init__(self, found: Range) -> None:
        self.found = found
        self.answer: Union[bytes, OSError, None] = None


class Questions:
    """Asks the far end; whatever it answers is looked at with care, since it need not be ours any more."""

    def __init__(self, line: Line) -> None:
        self._line = line
        # Each of these is the front part of what comes before the next: answered, asked, only announced.
        self._answered: Deque[_Read] = collections.deque()
        self._asked: Deque[_Read] = collections.deque()
        self._announced: Deque[_Read] = collections.deque()

    def expect(self, ranges: Sequence[Range]) -> None:
        """Hear which reads come next, and ask for some of them already."""
        self._announced.extend(map(_Read, ranges))
        self._ask_ahead()

    def read(self, wanted: Range) -> bytes:
        """Give memory; raises ``OSError`` as the source at the far end does."""
        queue = itertools.chain(self._answered, self._asked, self._announced)
        for index, read in enumerate(queue):
            if read.found.start <= wanted.start and wanted.end <= read.found.end:
                return self._take(read, index, wanted)
        self._receive_asked()
        self._ask(ssh_wire.READ, wanted)
        answer = self._memory(wanted)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def flags(self, wanted: Range, size: int) -> bytes:
        """Give ``size`` bytes of the flags of pages, in the far end's byte order; raises ``OSError``."""
        self._receive_asked()
        self._ask(ssh_wire.FLAGS, wanted)
        packed = self._receive(ssh_wire.PACKED)
        unpacking = zlib.decompressobj()
        try:
            flags = unpacking.decompress(packed, size + 1)
        except zlib.error:
            raise self._nonsense() from None
        if len(flags) > size:
            raise self._nonsense()
        return flags

    def now(self) -> Fields:
        """Give what its clocks show."""
        self._receive_asked()
        self._ask(ssh_wire.NOW, Range(0, 0))
        return self.hear()

    def ranges(self) -> Sequence[Range]:
        """Give what its ranges of system RAM are by now."""
        return self._layout().ranges("ranges")

    def offline(self) -> Sequence[Range]:
        """Give what of its memory is not in use."""
        return self._layout().ranges("offline")

    def _layout(self) -> Fields:
        self._receive_asked()
        self._ask(ssh_wire.RANGES, Range(0, 0))
        return self.hear()

    def hear(self) -> Fields:
        """Receive an object."""
        payload = self._receive(ssh_wire.TEXT)
        try:
            values = document.read(bytes(payload))
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise self._nonsense()
        return Fields(values, f"answer of {self._line.destination}")

    def _take(self, read: _Read, before: int, wanted: Range) -> bytes:
        """Give what was announced as ``read``, and forget the ``before`` announced in front of it."""
        for _ in range(before):
            self._drop()
        while read.answer is None:
            self._ask_ahead()
            self._receive_next()
        answer = read.answer
        if isinstance(answer, OSError) or wanted.end == read.found.end:
            self._drop()
        self._ask_ahead()
        if isinstance(answer, OSError):
            raise answer
        start = wanted.start - read.found.start
        return answer[start : start + wanted.size]

    def _drop(self) -> None:
        """Forget the first that was announced; if it was asked for, its answer has to be heard first."""
        if self._answered:
            self._answered.popleft()
        elif self._asked:
            self._receive_next()
            self._answered.popleft()
        else:
            self._announced.popleft()

    def _ask_ahead(self) -> None:
        ahead = sum(read.found.size for read in itertools.chain(self._answered, self._asked))
        while self._announced and len(self._asked) < _UNANSWERED:
            read = self._announced[0]
            ahead += read.found.size
            if ahead > _AHEAD and (self._asked or self._answered):
                return
            self._ask(ssh_wire.READ, read.found)
            self._asked.append(self._announced.popleft())

    def _receive_asked(self) -> None:
        while self._asked:
            self._receive_next()

    def _receive_next(self) -> None:
        read = self._asked[0]
        read.answer = self._memory(read.found)
        self._answered.append(self._asked.popleft())

    def _ask(self, kind: bytes, wanted: Range) -> None:
        self._line.send(ssh_wire.REQUEST.pack(kind, wanted.start, wanted.size))

    def _memory(self, wanted: Range) -> Union[bytes, OSError]:
        """Receive the answer to a READ."""
        try:
            kind, payload = self._any()
            return ssh_wire.unpack(kind, payload, wanted.size)
        except OSError as error:
            return error
        except ValueError:
            raise self._nonsense() from None

    def _receive(self, expected: bytes) -> bytearray:
        kind, payload = self._any()
        if kind != expected:
            raise self._nonsense()
        return payload

    def _any(self) -> "tuple[bytes, bytearray]":
        """Receive an answer; raises ``OSError`` and `MemdumpError` where it is one."""
        kind, size = ssh_wire.ANSWER.unpack(self._line.receive(ssh_wire.ANSWER.size))
        if size > ssh_wire.LARGEST:
            raise self._nonsense()
        payload = self._line.receive(size)
        if kind not in (ssh_wire.FAULT, ssh_wire.ERROR):
            return kind, payload
        try:
            what, words = cast("List[object]", document.read(bytes(payload)))
        except (ValueError, TypeError):
            raise self._nonsense() from None
        if kind == ssh_wire.FAULT and isinstance(what, int):
            raise OSError(what, str(words))
        raise _ERRORS.get(str(what), MemdumpError)(f"{self._line.destination}: {words}")

    def _nonsense(self) -> MemdumpError:
        return MemdumpError(
            f"{self._line.destination}: what came back makes no sense, so nothing more is taken"
        )
