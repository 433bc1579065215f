"""The process tree, reduced to the processes that matter most and those they descend from."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_NEVER = datetime.fromtimestamp(0, UTC)


@dataclass(eq=False, slots=True)
class Node:
    """A process, what stands out about it, and its place in the tree."""

    process: Any
    marks: list[str]
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)


def grow(processes: Sequence[Any], marks: Mapping[int, list[str]]) -> list[Node]:
    """Join processes to their parents; ``marks`` go by the address of the task, for one pid can occur twice.

    In a smeared memory parents can be missing or form a circle: then a process is a root.
    """
    nodes = [Node(process, marks.get(process.address, [])) for process in processes]
    by_pid: dict[int, Node] = {}
    for node in nodes:
        by_pid.setdefault(node.process.pid, node)
    for node in nodes:
        parent = by_pid.get(node.process.ppid)
        if parent and node not in ancestors(parent):
            node.parent = parent
            parent.children.append(node)
    return nodes


def ancestors(node: Node | None) -> list[Node]:
    """The node and all it descends from, the nearest first."""
    line = []
    while node:
        line.append(node)
        node = node.parent
    return line


def choose(nodes: Sequence[Node], most: int) -> set[Node]:
    """Choose up to ``most`` nodes with their ancestors: the marked, then the interactive, then the newest."""
    chosen: set[Node] = set()
    for node in sorted(nodes, key=_importance):
        line = chosen.union(ancestors(node))
        if len(line) <= most:
            chosen = line
    return chosen


def _importance(node: Node) -> tuple[bool, bool, float]:
    process = node.process
    started = (process.start_time or _NEVER).timestamp()
    return not node.marks, not process.tty, -started


def walk(nodes: Sequence[Node], chosen: set[Node]) -> Iterator[tuple[str, Node]]:
    """The chosen nodes from the roots down, each with the branches that lead to it."""
    roots = [node for node in nodes if node in chosen and node.parent is None]
    waiting = [("", "", node) for node in reversed(roots)]
    while waiting:
        branch, below, node = waiting.pop()
        yield branch, node
        children = [child for child in node.children if child in chosen]
        for child in reversed(children):
            last = child is children[-1]
            waiting.append((below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), child))
