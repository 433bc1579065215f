"""Runs pystack on a core and prints what it finds as JSON: ``python -m memdump.crash.pystack_process``."""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> int:
    """Status 1 and a line on stderr where pystack cannot read the interpreter."""
    core, program = sys.argv[1:]
    try:
        from pystack.engine import NativeReportingMode, get_process_threads_for_core
    except ImportError:
        sys.stderr.write("pystack is not installed: pip install pystack\n")
        return 1
    try:
        threads = list(
            get_process_threads_for_core(core, program, native_mode=NativeReportingMode.OFF, locals=True)
        )
    except Exception as error:
        sys.stderr.write(f"pystack: {error}".splitlines()[0] + "\n")
        return 1
    versions = {thread.python_version for thread in threads if thread.python_version}
    version = ".".join(map(str, max(versions))) if versions else ""
    json.dump({"version": version, "threads": [_thread(thread) for thread in threads]}, sys.stdout)
    return 0


def _thread(thread: Any) -> dict[str, Any]:
    frames = [_frame(frame) for frame in thread.frames]
    return {
        "tid": thread.tid,
        "name": thread.name,
        "has_gil": thread.holds_the_gil > 0,
        "collecting": thread.is_gc_collecting == 1 and thread.holds_the_gil > 0,
        "frames": frames[::-1],
    }


def _frame(frame: Any) -> dict[str, Any]:
    return {
        "function": frame.code.scope,
        "file": frame.code.filename,
        "line": frame.code.location.lineno,
        "arguments": frame.arguments,
        "locals": frame.locals,
    }


if __name__ == "__main__":
    sys.exit(main())
