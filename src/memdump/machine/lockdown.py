"""How far the kernel is locked down, even against root (kernel, ``security/lockdown/lockdown.c``)."""

import re
from pathlib import Path

PATH = "/sys/kernel/security/lockdown"


def level() -> str:
    """Give ``none``, ``integrity`` or ``confidentiality``; ``none`` too where the kernel does not tell."""
    try:
        found = re.search(r"\[([a-z]+)\]", Path(PATH).read_text("ascii", "replace"))
    except OSError:
        return "none"
    return found.group(1) if found else "none"
