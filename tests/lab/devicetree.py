"""Adding to the description of a machine that its kernel finds: a flattened device tree.

The layout is that of the Devicetree Specification 0.4, chapter 5.
"""

from __future__ import annotations

import struct

_HEADER = struct.Struct(">10I")
"""Magic, total size, offsets of structure, strings and reservations, version, last compatible version, boot
processor, sizes of strings and structure."""
_MAGIC = 0xD00DFEED
_BEGIN_NODE, _END_NODE, _PROPERTY, _END = 1, 2, 3, 9


def with_hole(tree: bytes, start: int, size: int) -> bytes:
    """Give a tree in which a part of the memory is nothing that the kernel may ever map."""
    fields = list(_HEADER.unpack_from(tree))
    assert fields[0] == _MAGIC
    structure, strings = (
        tree[at : at + length] for at, length in ((fields[2], fields[9]), (fields[3], fields[8]))
    )
    names: dict[bytes, int] = {}
    for name in (b"#address-cells", b"#size-cells", b"ranges", b"reg", b"no-map"):
        names[name] = len(strings)
        strings += name + b"\0"

    def given(name: bytes, value: bytes) -> bytes:
        return struct.pack(">3I", _PROPERTY, len(value), names[name]) + value

    two = struct.pack(">I", 2)
    hole = _node(
        f"hole@{start:x}".encode(), given(b"reg", struct.pack(">2Q", start, size)) + given(b"no-map", b"")
    )
    cells = given(b"#address-cells", two) + given(b"#size-cells", two) + given(b"ranges", b"")
    end = struct.pack(">2I", _END_NODE, _END)
    assert structure.endswith(end)
    structure = structure.removesuffix(end) + _node(b"reserved-memory", cells + hole) + end
    fields[3] = fields[2] + len(structure)
    fields[8:] = len(strings), len(structure)
    # Not at its end: much of it is room that nothing uses, and a kernel takes no more than 2 MiB.
    whole = tree[: fields[2]] + structure + strings
    fields[1] = len(whole)
    return _HEADER.pack(*fields) + whole[_HEADER.size :]


def _node(name: bytes, content: bytes) -> bytes:
    name += bytes(4 - len(name) % 4)
    return struct.pack(">I", _BEGIN_NODE) + name + content + struct.pack(">I", _END_NODE)
