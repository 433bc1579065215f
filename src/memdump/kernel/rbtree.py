"""Walks the kernel's red-black trees (``include/linux/rbtree.h``) to an end, whatever they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn import container_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drgn import Object


def entries(root: Object, type_: str, member: str) -> Iterator[Object]:
    """The structures in the tree under a ``struct rb_root``, in order.

    Raises `ValueError` behind the last one where a torn tree leads back to a node that it has been to.
    """
    above: list[Object] = []
    seen: set[int] = set()
    runs_into_itself = False
    node = root.rb_node.read_()
    while node or above:
        while node:
            if node.value_() in seen:
                runs_into_itself = True
                break
            seen.add(node.value_())
            above.append(node)
            node = node.rb_left.read_()
        if not above:
            break
        node = above.pop()
        yield container_of(node, type_, member)
        node = node.rb_right.read_()
    if runs_into_itself:
        raise ValueError("the tree runs into itself")
