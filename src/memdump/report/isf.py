"""A kernel's symbols and types as a file in Volatility 3's Intermediate Symbol Format.

Volatility finds a symbol file by the kernel's banner, which must stand in it byte for byte, and finds out
itself how far KASLR has moved the kernel; so addresses are those that the kernel was linked to.  Source:
``volatility3/schemas`` and ``volatility3/framework/automagic/linux.py``.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from memdump import __version__
from memdump.errors import MemdumpError
from memdump.image.base import MissingMemory
from memdump.kernel.btf import BadBtf, Kind
from memdump.kernel.variables import VARIABLES
from memdump.report.isf_types import FUNCTION, VOID, IsfTypes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memdump.kernel.kernel import Kernel
    from memdump.kernel.symbols import SymbolTable

FORMAT = "6.2.0"
LONGEST_BANNER = 1024


def encode(kernel: Kernel) -> bytes:
    """The symbol file of a kernel as JSON.

    Raises `MemdumpError` where the image lacks the types, the symbols or the banner: without any of them
    Volatility could do nothing with the file.
    """
    if kernel.btf is None:
        raise MemdumpError(
            f"{kernel.image.path}: no symbol file can be made: the image holds no whole BTF, so no types"
        )
    try:
        types = IsfTypes(kernel.btf)
        document = {
            "metadata": _metadata(),
            "base_types": types.base_types(),
            "user_types": types.user_types(),
            "enums": types.enums(),
            "symbols": _symbols(kernel, types),
        }
    except BadBtf as error:
        raise MemdumpError(
            f"{kernel.image.path}: no symbol file can be made: its types are torn ({error})"
        ) from None
    return json.dumps(document, separators=(",", ":"), check_circular=False).encode()


def _metadata() -> dict[str, Any]:
    return {
        "format": FORMAT,
        "producer": {"name": "memdump", "version": __version__},
        "linux": {"symbols": [{"kind": "symtab", "name": "kallsyms"}]},
    }


def _symbols(kernel: Kernel, types: IsfTypes) -> dict[str, dict[str, Any]]:
    """The section ``symbols``; of several of one name it has the global one, or else the first."""
    first, moved = kernel.location.virtual, kernel.kaslr_offset
    functions = types.declared[Kind.FUNC]
    found: dict[str, dict[str, Any]] = {}
    for name, letter, address in _ascending(kernel.symbols):
        if name not in found or (letter.isupper() and letter != "A"):
            # What lies below the kernel is an offset in the per-CPU area, which KASLR leaves alone.
            linked = address - moved if address >= first else address
            found[name] = {"address": linked, "type": FUNCTION if name in functions else VOID}
    for name, type_ in _variables(kernel, types):
        if name in found:
            found[name]["type"] = type_
    _add_clock(found, types)
    found["linux_banner"]["constant_data"] = base64.b64encode(_banner(kernel)).decode()
    return found


def _ascending(symbols: SymbolTable) -> Iterator[tuple[str, str, int]]:
    """Name, kind letter and address of each symbol."""
    text, starts = bytes(symbols.names).decode("latin-1"), symbols.starts
    for number, address in enumerate(symbols.addresses):
        start = starts[number]
        yield text[start + 1 : starts[number + 1]], text[start], address


def _variables(kernel: Kernel, types: IsfTypes) -> Iterator[tuple[str, dict[str, Any]]]:
    """The variables whose types are known, from BTF or from memdump's own table."""
    for name, number in types.declared[Kind.VAR].items():
        yield name, types.describe(number)
    for name, spellings in VARIABLES.items():
        size = next((symbol.size for symbol in kernel.symbols.named(name)), 0)
        described = (types.spelled(spelling, size) for spelling in spellings)
        if (type_ := next(filter(None, described), None)) is not None:
            yield name, type_


def _add_clock(symbols: dict[str, dict[str, Any]], types: IsfTypes) -> None:
    """Give ``tk_core`` a type: up to 6.12 its own has no name, from 6.17 on it is an element of an array."""
    if "timekeeper_data" in symbols:
        data = types.spelled("struct tk_data", 0)
        symbols.setdefault("tk_core", {"address": symbols["timekeeper_data"]["address"], "type": data})
    elif "tk_core" in symbols and symbols["tk_core"]["type"] is VOID:
        number = types.unnamed_with("seq", "timekeeper")
        if number is not None:
            symbols["tk_core"]["type"] = types.describe(number)


def _banner(kernel: Kernel) -> bytes:
    """``linux_banner`` with the zero that ends it, as it is in memory."""
    address = kernel.symbols.address_of("linux_banner")
    if address is None:
        raise _impossible(kernel, "the image holds no whole kallsyms, so no symbols")
    try:
        text = kernel.image.read(kernel.location.translate(address), LONGEST_BANNER)
    except MissingMemory as error:
        raise MemdumpError(
            f"{kernel.image.path}: no symbol file can be made without the banner: {error}"
        ) from None
    return text[: text.find(b"\0") + 1]


def _impossible(kernel: Kernel, reason: str) -> MemdumpError:
    return MemdumpError(f"{kernel.image.path}: no symbol file can be made: {reason}")
