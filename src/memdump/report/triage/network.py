"""Who listens, and who talks to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memdump.report.styled import Line, Span
from memdump.report.triage.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memdump.dump import Dump

MOST = 6
"""Connections and listeners that are shown, each."""
LOCAL = ("127.", "::1", "::ffff:127.")


def section(dump: Dump) -> Section:
    """Established connections first: those that leave the machine before those that do not."""
    sockets = [found for found in dump.table("sockets") if found.local_port]
    talking = _joined(found for found in sockets if found.state == "ESTABLISHED")
    listening = _joined(found for found in sockets if _listens(found))
    talking.sort(key=lambda row: (_address(row[0].remote_address).startswith(LOCAL), row[0].local_port))
    listening.sort(key=lambda row: (_address(row[0].local_address).startswith(LOCAL), row[0].local_port))
    lines = [_line(*row) for row in (*talking[:MOST], *listening[:MOST])]
    left = max(len(talking) - MOST, 0) + max(len(listening) - MOST, 0)
    summary = f"{len(talking)} established, {len(listening)} listening"
    return Section(summary, lines, "sockets", f"{left} more" if left else "")


def _listens(found: Any) -> bool:
    """Whether it waits for anybody: UDP knows no state for that."""
    return found.state == "LISTEN" or (found.type == "dgram" and not found.remote_port)


def _joined(sockets: Iterable[Any]) -> list[tuple[Any, list[str]]]:
    """Each socket once, with all processes that hold it."""
    rows: dict[tuple[Any, ...], tuple[Any, list[str]]] = {}
    for found in sockets:
        key = (found.network_namespace, found.inode, found.protocol, found.local_address, found.local_port,
               found.remote_address, found.remote_port)  # fmt: skip
        owners = rows.setdefault(key, (found, []))[1]
        if found.pid is not None:
            owner = f"{found.process} ({found.pid})"
            if owner not in owners:
                owners.append(owner)
    return list(rows.values())


def _line(found: Any, owners: list[str]) -> Line:
    local = _end(found.local_address, found.local_port)
    remote = f"→ {_end(found.remote_address, found.remote_port)}" if found.remote_port else "listens"
    return (
        Span(f"{found.protocol or '':<5} "),
        Span(f"{local:<26} {remote:<28} "),
        Span(", ".join(owners) or "no process"),
    )


def _end(address: str | None, port: int) -> str:
    text = _address(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def _address(address: str | None) -> str:
    return address or "*"
