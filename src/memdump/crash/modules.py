"""The program and its libraries: which files they were, and whether the same files are here."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdump.errors import MemdumpError
from memdump.image import elf
from memdump.image.content import open_content

if TYPE_CHECKING:
    import drgn

NT_GNU_BUILD_ID = 3
VDSO = "linux-vdso"


@dataclass(frozen=True, slots=True)
class CrashModule:
    """The program, a library, or the kernel's vDSO, as it was mapped."""

    name: str
    """The path that the process had it by."""
    start: int
    end: int
    build_id: str
    """Hexadecimal; empty where the core does not tell."""
    file: str
    """The file here that is the same, empty where there is none."""
    missing: str
    """Why there is none, in words."""
    debug_information: bool
    base: int
    """What is added to the addresses in the file."""

    @property
    def short_name(self) -> str:
        """The last part of its path."""
        return self.name.rsplit("/", 1)[-1]


def load(program: drgn.Program, root: Path | None) -> list[CrashModule]:
    """Find the files of all modules, by build id, and their debug information.

    ``root`` is the root file system of the machine that the core is from, where that is not this one.  Files
    of other build ids are never used.  debuginfod is asked where DEBUGINFOD_URLS names servers.
    """
    import drgn

    wanted = []
    for module, _new in program.loaded_modules():
        if root is not None and module.name.startswith("/"):
            _try_root(module, root / module.name.lstrip("/"))
        # To open what is no ordinary file, which a hostile core can name, may wait for ever.
        if not module.name.startswith("/") or not _is_special(Path(module.name)):
            wanted.append(module)
    try:
        program.load_module_debug_info(*wanted)
    except drgn.MissingDebugInfoError:
        pass
    except Exception as error:
        raise MemdumpError(f"debug information cannot be loaded: {error}") from None
    return sorted((_describe(module, root) for module in program.modules()), key=lambda found: found.start)


def _try_root(module: Any, path: Path) -> None:
    """Symbolic links that lead out of ``root`` are followed: what is found counts by its build id only."""
    if _is_file(path):
        module.try_file(str(path))


def _describe(module: Any, root: Path | None) -> CrashModule:
    import drgn

    have = drgn.ModuleFileStatus.HAVE
    ranges = module.address_ranges or ()
    build_id = module.build_id or b""
    file = module.loaded_file_path if module.loaded_file_status is have else ""
    return CrashModule(
        module.name,
        min((start for start, _ in ranges), default=0),
        max((end for _, end in ranges), default=0),
        build_id.hex(),
        file or "",
        "" if file or module.name.startswith(VDSO) else _why_missing(module.name, build_id, root),
        module.debug_file_status is have,
        (module.loaded_file_bias if file else None) or min((start for start, _ in ranges), default=0),
    )


def _why_missing(name: str, build_id: bytes, root: Path | None) -> str:
    path = root / name.lstrip("/") if root else Path(name)
    if not name.startswith("/"):
        return "the core does not tell its file"
    if not path.exists():
        return f"{path} is not here"
    if not _is_file(path):
        return f"{path} is no ordinary file"
    here = build_id_of(path)
    if build_id and here and here != build_id:
        return f"{path} has changed since: its build id is {here.hex()}"
    return f"{path} cannot be shown to be the same: {'the file' if build_id else 'the core'} has no build id"


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def _is_special(path: Path) -> bool:
    return path.exists() and not _is_file(path)


def build_id_of(path: Path) -> bytes | None:
    """The build id of an ELF file; None where it has none, is no ELF file or cannot be read."""
    try:
        content = open_content(path)
    except MemdumpError:
        return None
    try:
        header = elf.parse_header(path, content)
        for part in elf.program_headers(content, header):
            if part.type == elf.PT_NOTE:
                for found in elf.notes(content, part.offset, part.filesz, header.order):
                    if found.name == b"GNU" and found.type == NT_GNU_BUILD_ID:
                        return content[found.offset : found.offset + found.size]
    except MemdumpError:
        return None
    finally:
        content.close()
    return None
