"""QEMU's machine protocol (QMP): JSON, a line each way (QEMU, ``docs/interop/qmp-spec.txt``)."""

import contextlib
import json
import socket
import struct
from typing import Any, Dict

from memdump.errors import MemdumpError, NotPermitted, UsageError

_PATIENCE = 30.0
"""Seconds to wait for an answer."""
_CREDENTIALS = struct.Struct("3i")
"""Process, user and group, as ``SO_PEERCRED`` gives them."""


class Monitor:
    """A connection to the monitor of a QEMU process."""

    def __init__(self, path: str) -> None:
        """Connect; raises `UsageError` where it is no monitor, `NotPermitted` where it is closed to us."""
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_PATIENCE)
        try:
            self._socket.connect(path)
        except PermissionError as error:
            self._socket.close()
            raise NotPermitted(f"{path}: {error.strerror}; run as root or as the user of QEMU") from None
        except OSError as error:
            self._socket.close()
            raise UsageError(
                f"{path}: {error.strerror or error}; name the UNIX socket of a QMP monitor"
                " (qemu -qmp unix:PATH,server=on,wait=off)"
            ) from None
        self._stream = self._socket.makefile("rwb")
        try:
            if "QMP" not in self._hear():
                raise UsageError(f"{path}: does not speak QMP")
            self.ask("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def ask(self, command: str, **arguments: object) -> Any:
        """Run a command and give its result; raises `MemdumpError` with QEMU's words."""
        try:
            self._stream.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            self._stream.flush()
        except OSError as error:
            raise MemdumpError(f"{self.path}: QEMU went away: {error.strerror or error}") from None
        except ValueError:  # the stream is closed
            raise MemdumpError(f"{self.path}: hung up already") from None
        while True:
            answer = self._hear()
            if "error" in answer:
                raise MemdumpError(f"{self.path}: {command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def ask_human(self, line: str) -> str:
        """Run a line of the monitor for humans, for what QMP itself has no command for."""
        return str(self.ask("human-monitor-command", **{"command-line": line}))

    def process(self) -> int:
        """Give the process that listens at the other end."""
        packed = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(packed)[0])

    def close(self) -> None:
        """Hang up; nobody needs to be there any more."""
        with contextlib.suppress(OSError):  # of what could not be sent to a QEMU that is gone
            self._stream.close()
        self._socket.close()

    def _hear(self) -> Dict[str, Any]:
        try:
            line = self._stream.readline()
        except TimeoutError:
            raise MemdumpError(
                f"{self.path}: nobody answers: is somebody else connected? A monitor serves one at a time"
            ) from None
        except OSError as error:
            raise MemdumpError(f"{self.path}: QEMU went away: {error.strerror or error}") from None
        try:
            answer = json.loads(line)
        except ValueError:
            raise MemdumpError(f"{self.path}: QEMU went away") from None
        if not isinstance(answer, dict):
            raise MemdumpError(f"{self.path}: does not speak QMP")
        return answer
