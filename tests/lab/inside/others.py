"""The usual scenario, on a machine whose memory other programs take too.

What the host sends along (`tests.lab.takers`) is there if it could be had.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.lab.inside import scenario

ADDED = Path("/lab/added")
OUT = Path("/lab/out")
DROP = Path("/proc/sys/vm/drop_caches")

AVML = [str(ADDED / "avml"), "acquire", "--source", "/proc/kcore"]
# Another file is where the kernel's own is, for the one that is run with it.
HIDDEN = ["unshare", "-m", "sh", "-c", 'mount --bind /dev/null /proc/kcore && exec "$@"', "sh"]
MEMDUMP = ["env", "PYTHONPATH=/lab/src", sys.executable, "-B", "-m", "memdump", "acquire"]
COMMANDS = {
    "driver": [["insmod", str(ADDED / "crash.ko")]],
    "choose": [[*HIDDEN, *MEMDUMP, str(OUT / "chosen.lime"), "--dry-run", "--no-encrypt"]],
    # What takes LiME longer than its timeout it leaves out, and an emulated machine takes long.
    "lime": [
        ["insmod", str(ADDED / "lime.ko"), f"path={OUT / 'lime.lime'}", "format=lime", "timeout=0"],
        ["rmmod", "lime"],
    ],
    "avml": [[*AVML, str(OUT / "avml.lime")]],
    "avml-compressed": [[*AVML, "--compress", str(OUT / "avml.packed")]],
}

run = scenario.run
last_moment = scenario.last_moment


def do(*words: str) -> str:
    """Run the commands of that name; how the first that fails ended, or 0."""
    (name,) = words
    with (OUT / f"{name}.log").open("w") as log:
        for command in COMMANDS[name]:
            status = subprocess.run(command, stdout=log, stderr=log, check=False, cwd="/").returncode
            if status:
                return str(status)
    # What was written stays in memory, all of it: the next would find little else.
    subprocess.run(["sync"], check=True)
    DROP.write_text("1")
    return "0"
