"""Who talks to whom, and who listens."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from memdump.report.styled import Line, Span
from memdump.report.text import cut, pad, visible, width
from memdump.report.triage.section import Section

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memdump.dump import Dump

MOST = 8
"""Lines for connections, and for listeners."""
LONGEST_OWNERS = 36
LOOPBACK = ("127.", "::1", "::ffff:127.")


class Shared(NamedTuple):
    """A socket, and all processes that hold it."""

    socket: Any
    owners: list[str]


def section(dump: Dump) -> Section:
    """Connections that go out, then those that came in, by the port they came to; then the listeners.

    In each, what stays on the machine comes last.
    """
    sockets = [found for found in dump.table("sockets") if found.local_port]
    talking = _shared(found for found in sockets if found.state == "ESTABLISHED")
    listening = _shared(found for found in sockets if _listens(found))
    ports = {(found.socket.network_namespace, found.socket.local_port) for found in listening}
    came_in: dict[Any, list[Shared]] = defaultdict(list)
    rows: list[tuple[Shared, str]] = []
    for found in sorted(talking, key=_by_distance):
        end = (found.socket.network_namespace, found.socket.local_port)
        if end in ports:
            came_in[(*end, found.socket.local_address, *found.owners)].append(found)
        else:
            rows.append((found, f"→ {_remote(found.socket)}"))
    rows += [(group[0], f"← {_callers(group)}") for group in came_in.values()]
    waiting = [(found, "listens") for found in sorted(listening, key=_by_distance)]
    left = max(len(rows) - MOST, 0) + max(len(waiting) - MOST, 0)
    summary = f"{len(talking)} established, {len(listening)} listening"
    return Section(summary, _lines(rows[:MOST] + waiting[:MOST]), "sockets", f"{left} more" if left else "")


def _listens(found: Any) -> bool:
    """Whether it waits for anybody: UDP knows no state for that."""
    return found.state == "LISTEN" or (found.type == "dgram" and not found.remote_port)


def _shared(sockets: Iterable[Any]) -> list[Shared]:
    rows: dict[int, Shared] = {}
    for found in sockets:
        owners = rows.setdefault(found.address, Shared(found, [])).owners
        if found.pid is not None:
            owner = f"{found.process} ({found.pid})"
            if owner not in owners:
                owners.append(owner)
    return list(rows.values())


def _by_distance(found: Shared) -> tuple[bool, int]:
    end = found.socket.remote_address if found.socket.remote_port else found.socket.local_address
    return (end or "").startswith(LOOPBACK), found.socket.local_port


def _callers(group: list[Shared]) -> str:
    if len(group) == 1:
        return _remote(group[0].socket)
    addresses = {found.socket.remote_address for found in group}
    if len(addresses) == 1:
        return f"{len(group)} from {group[0].socket.remote_address}"
    return f"{len(group)} from {len(addresses)} addresses"


def _lines(rows: list[tuple[Shared, str]]) -> list[Line]:
    """The process first, for what a long IPv6 address pushes out of sight is less than that."""
    owners = [cut(visible(", ".join(found.owners)), LONGEST_OWNERS) or "no process" for found, _ in rows]
    room = max(map(width, owners), default=0)
    return [
        (
            Span(f"{found.socket.protocol or '':<5} {pad(owner, room)}  "),
            Span(f"{_end(found.socket.local_address, found.socket.local_port)} {what}"),
        )
        for (found, what), owner in zip(rows, owners, strict=True)
    ]


def _remote(socket: Any) -> str:
    return _end(socket.remote_address, socket.remote_port)


def _end(address: str | None, port: int) -> str:
    text = address or "*"
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
