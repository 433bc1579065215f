"""Files of age for tests: sealed by memdump, by age itself and by pyrage; and the keys for that."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

from memdump.image.age import AgeContent, AgeWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from memdump.image.age import Identity, Recipient

CHUNK = 64 << 10
SEALED = CHUNK + 16


class Bytes(bytes):
    """Bytes as a content, which count what is read of them."""

    read = 0

    def __getitem__(self, where: slice) -> bytes:  # type: ignore[override]
        data = super().__getitem__(where)
        self.read += len(data)
        return data

    def close(self) -> None:
        """Nothing is open."""


class Key(NamedTuple):
    """A key pair that age or OpenSSH made."""

    recipient: str
    path: Path


def plaintext(size: int, seed: bytes = b"") -> bytes:
    """Bytes of which no two chunks are alike."""
    import hashlib

    return hashlib.shake_128(b"%d" % size + seed).digest(size)


def seal(data: bytes, recipients: Sequence[Recipient], step: int = 100_000) -> bytes:
    stream = io.BytesIO()
    writer = AgeWriter(stream, recipients)
    for at in range(0, len(data), step):
        writer.write(data[at : at + step])
    writer.close()
    return stream.getvalue()


def unseal(sealed: bytes, identities: Sequence[Identity]) -> bytes:
    content = AgeContent(Bytes(sealed), identities)
    return content[: len(content)]


def header_size(sealed: bytes) -> int:
    """What stands in front of the first chunk, the nonce included."""
    return sealed.index(b"\n", sealed.index(b"\n---") + 1) + 1 + 16


def run(*command: str | Path, data: bytes | None = None) -> bytes:
    done = subprocess.run(command, input=data, check=True, capture_output=True)
    return done.stdout


def on_terminal(command: list[str], answers: list[bytes]) -> None:
    """Run a program that asks for secrets on its terminal."""
    process, terminal = pty.fork()
    if process == 0:
        os.execvp(command[0], command)
    said = b""
    try:
        for answer in answers:
            while b"passphrase" not in said:
                said += os.read(terminal, 1000)
            said = b""
            time.sleep(0.1)  # it asks first, and then stops the terminal from showing what is typed
            os.write(terminal, answer + b"\n")
        while os.read(terminal, 1000):
            pass
    except OSError:
        pass  # how a terminal ends
    finally:
        os.close(terminal)
        _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
