"""The far end of an acquisition over ssh: answers for the memory of the machine that it runs on.

It is sent there, runs from memory and ends when its standard input does.
"""

import contextlib
import json
import os
import sys
import zlib
from typing import Any, BinaryIO, Callable, List, Sequence, Tuple

from memdump.errors import MemdumpError
from memdump.machine import priority, sources, ssh_wire
from memdump.machine.source import Range, Source
from memdump.machine.sources import Chosen


def main(open_source: Callable[[], Chosen] = sources.open_source) -> None:
    """Serve standard input and output; nothing else may write to the latter."""
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    priority.lower()
    end = FarEnd(answers)
    with contextlib.suppress(Gone):
        end.greet()
        try:
            chosen = open_source()
            with contextlib.closing(chosen.source) as source:
                end.introduce(chosen)
                end.serve(source, sys.stdin.buffer)
        except MemdumpError as error:
            end.tell(ssh_wire.ERROR, [type(error).__name__, str(error)])
        except Gone:
            raise
        except Exception as error:
            what = f"a fault of memdump's far end ({type(error).__name__}: {error}); please report it"
            end.tell(ssh_wire.ERROR, ["MemdumpError", what])


class Gone(Exception):
    """Nobody listens any more."""


class FarEnd:
    """Writes answers to a file descriptor."""

    def __init__(self, answers: int) -> None:
        self._answers = answers

    def greet(self) -> None:
        """Say that what comes now is ours."""
        self._write([ssh_wire.GREETING])

    def introduce(self, chosen: Chosen) -> None:
        """Say, unasked, which machine this is and what there is to read."""
        source = chosen.source
        self.tell(
            ssh_wire.TEXT,
            {
                "host": source.host()._asdict(),
                "source": source.name,
                "refused": [{"source": name, "reason": reason} for name, reason in chosen.refused],
                "page_size": source.page_size,
                "byte_order": sys.byteorder,
                "ranges": _spelled(source.ranges()),
                "vmcoreinfo": source.vmcoreinfo,
                "evidence": source.evidence,
                "now": source.now()._asdict(),
            },
        )

    def serve(self, source: Source, requests: BinaryIO) -> None:
        """Answer until there are no more questions."""
        source.begin()
        while True:
            request = requests.read(ssh_wire.REQUEST.size)
            if len(request) < ssh_wire.REQUEST.size:
                return
            kind, address, size = ssh_wire.REQUEST.unpack(request)
            try:
                self._answer(source, kind, address, size)
            except OSError as error:
                self.tell(ssh_wire.FAULT, [error.errno or 0, error.strerror or str(error)])

    def tell(self, kind: bytes, content: Any) -> None:
        """Answer with a JSON value."""
        self._send(kind, [json.dumps(content).encode("ascii")])

    def _answer(self, source: Source, kind: bytes, address: int, size: int) -> None:
        if kind == ssh_wire.READ and size <= ssh_wire.LARGEST:
            data = bytearray(size)
            source.read_into(address, memoryview(data))
            self._send(*ssh_wire.pack(data))
        elif kind == ssh_wire.FLAGS:
            self._send(ssh_wire.PACKED, [zlib.compress(source.page_flags(address, size), 1)])
        elif kind == ssh_wire.NOW:
            self.tell(ssh_wire.TEXT, {"now": source.now()._asdict(), "broken": source.broken()})
        elif kind == ssh_wire.RANGES:
            now, offline = source.ranges_now(), source.offline()
            self.tell(ssh_wire.TEXT, {"ranges": _spelled(now), "offline": _spelled(offline)})
        else:
            raise MemdumpError(f"the far end is asked for something that it does not know ({kind!r})")

    def _send(self, kind: bytes, parts: Sequence[ssh_wire.Buffer]) -> None:
        head = ssh_wire.ANSWER.pack(kind, sum(map(len, parts)))
        # Small parts as one write: each would become a packet of its own.
        self._write([head, *parts] if len(parts) == 1 else [b"".join([head, *parts])])

    def _write(self, parts: Sequence[ssh_wire.Buffer]) -> None:
        for part in parts:
            view = memoryview(part)
            try:
                while view:
                    view = view[os.write(self._answers, view) :]
            except OSError:
                raise Gone from None


def _spelled(ranges: Sequence[Range]) -> List[Tuple[str, int]]:
    return [(hex(found.start), found.size) for found in ranges]
