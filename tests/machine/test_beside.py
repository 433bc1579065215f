from __future__ import annotations

import functools
import hashlib

import pytest

from memdump.machine.beside import Beside


def test_a_buffer_is_free_again_when_the_work_on_it_is_done() -> None:
    beside = Beside("test")
    for _ in range(200):
        buffer = bytearray(10)
        beside.start(functools.partial(hashlib.sha256().update, memoryview(buffer)))
        beside.wait()
        buffer.clear()  # raises BufferError where somebody still looks at it
    beside.close()


def test_what_goes_wrong_beside_is_raised_where_it_is_waited_for() -> None:
    def fail() -> None:
        raise ValueError("wrong")

    beside = Beside("test")
    beside.start(fail)
    with pytest.raises(ValueError, match="wrong"):
        beside.wait()
    beside.close()
