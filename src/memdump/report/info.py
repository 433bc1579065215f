"""What an image is, without reading its memory: the file, its ranges, its manifest, the kernel in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdump.errors import MemdumpError
from memdump.machine import custody, manifest
from memdump.machine.pieces import add

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memdump.dump import Dump
    from memdump.machine.manifest import Manifest
    from memdump.machine.source import Range

INSIDE = "inside the image"
"""Where a manifest is that travels in a layer of the image."""

MOST_RANGES = 12
"""So many ranges are listed for people; machines get all of them."""
MOST_ENTRIES = 3
"""So many of the last entries of the record of custody are, beside the first."""


def facts(dump: Dump) -> dict[str, Any]:
    """Everything that is known, as JSON has it; ``error`` stands where something could not be had."""
    image = dump.image
    return {
        "path": str(image.path),
        "format": image.format,
        "layers": [layer._asdict() for layer in image.layers],
        "file_size": image.file_size,
        "memory_size": image.size,
        "ranges": [{"start": found.start, "size": found.size} for found in _joined(image.ranges)],
        "defects": list(image.defects),
        "manifest": _beside(image.path),
        "embedded_manifest": _embedded(image.metadata),
        "custody": _custody(image.path),
        "kernel": _kernel(dump),
    }


def _joined(pieces: Iterable[Range]) -> list[Range]:
    """Take the pieces of a range, each of which has a header of its own in the file, as one."""
    ranges: list[Range] = []
    for piece in pieces:
        add(ranges, piece)
    return ranges


def lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The same for people: labels and values; a label is empty where a value goes on."""
    yield "image", f"{found['path']} ({size(found['file_size'])})"
    yield "format", found["format"]
    for number, layer in enumerate(found["layers"]):
        yield ("" if number else "in"), f"{layer['name']} ({layer['detail']})"
    ranges = found["ranges"]
    yield "memory", f"{size(found['memory_size'])} in {len(ranges)} range{'s' * (len(ranges) != 1)}"
    for span in ranges[:MOST_RANGES]:
        yield "", f"{span['start']:#014x} - {span['start'] + span['size']:#014x}  {size(span['size'])}"
    if len(ranges) > MOST_RANGES:
        yield "", f"and {len(ranges) - MOST_RANGES} more: --format json lists them"
    yield from _kernel_lines(found["kernel"])
    yield from _manifest_lines(found["manifest"] or found["embedded_manifest"])
    yield from _comparison(found["manifest"], found["embedded_manifest"])
    yield from _custody_lines(found["custody"])
    for number, defect in enumerate(found["defects"]):
        yield ("" if number else "defects"), defect


def size(count: int) -> str:
    """A number of bytes for people; binary prefixes (IEC 80000-13)."""
    if count < 1024:
        return f"{count} bytes"
    value, unit = float(count), ""
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):  # noqa: B007 - the last one is used
        value /= 1024
        if value < 1024:
            break
    return f"{value:.4g} {unit}"


def _kernel(dump: Dump) -> dict[str, Any]:
    try:
        kernel = dump.kernel
    except MemdumpError as error:
        return {"error": str(error)}
    return {
        "release": kernel.release,
        "architecture": kernel.architecture,
        "build_id": kernel.build_id,
        "paging_levels": kernel.location.levels,
        "kaslr_offset": kernel.kaslr_offset,
        "physical_address": kernel.location.physical,
        "virtual_address": kernel.location.virtual,
        "found_by": kernel.location.found_by,
    }


def _kernel_lines(kernel: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "error" in kernel:
        yield "kernel", kernel["error"]
        return
    yield (
        "kernel",
        f"Linux {kernel['release']} ({kernel['architecture']}, {kernel['paging_levels']} levels of pages)",
    )
    yield "", f"build id {kernel['build_id'] or 'unknown'}"
    yield "", f"at {kernel['physical_address']:#x}, mapped at {kernel['virtual_address']:#x}"
    yield (
        "",
        f"moved {kernel['kaslr_offset']:#x} by KASLR" if kernel["kaslr_offset"] else "not moved by KASLR",
    )
    yield "", f"found by {kernel['found_by']}"


def _beside(image: Path) -> dict[str, Any] | None:
    path = Path(manifest.path_of(str(image)))
    if not path.exists():
        return None
    return _manifest(str(path), lambda: manifest.load(path))


def _embedded(metadata: bytes) -> dict[str, Any] | None:
    return _manifest(INSIDE, lambda: manifest.parse(metadata)) if metadata else None


def _manifest(path: str, load: Callable[[], Manifest]) -> dict[str, Any]:
    try:
        known = load()
    except MemdumpError as error:
        return {"path": path, "error": str(error)}
    return {
        "path": path,
        "host": known.host.hostname,
        "boot_id": known.host.boot_id,
        "started": known.started.utc,
        "ended": known.ended.utc,
        "source": known.source,
        "memdump": known.memdump,
        "stream": known.stream._asdict(),
        "written": known.written
        and {**known.written._asdict(), "parts": [part._asdict() for part in known.written.parts]},
        "complete": known.complete,
        "stopped_by": known.stopped_by,
        "unreadable": [{"start": span.start, "size": span.size} for span in known.unreadable],
    }


def _manifest_lines(known: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    if known is None:
        return
    yield "manifest", known["path"]
    if "error" in known:
        yield "", known["error"]
        return
    yield "", f"taken on {known['host']} from {known['source']} by memdump {known['memdump']}"
    yield "", f"{known['started']} to {known['ended']}"
    missing = sum(span["size"] for span in known["unreadable"])
    whole = "complete" if known["complete"] else f"incomplete: {known['stopped_by']}"
    yield "", f"{whole}, {size(missing)} could not be read" if missing else whole
    for digest in dict.fromkeys(found["sha256"] for found in (known["written"], known["stream"]) if found):
        yield "", f"SHA-256 {digest}" if digest else "no digest was taken"


def _comparison(beside: dict[str, Any] | None, inside: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Say whether the manifest beside the image is that of the acquisition that is told of in the image."""
    if beside is None or inside is None or "error" in beside:
        return
    if "error" in inside:
        yield "", f"the one {INSIDE}: {inside['error']}"
    elif any(beside[key] != inside[key] for key in ("host", "boot_id", "started", "stream")):
        yield "", f"the one {INSIDE} is of another acquisition, on {inside['host']} at {inside['started']}"
    else:
        yield "", f"the one {INSIDE} says the same"


def _custody(image: Path) -> dict[str, Any] | None:
    try:
        record = custody.check(str(image))
    except MemdumpError as error:
        return {"error": str(error)}
    if record is None:
        return None
    return {
        "entries": [
            {key: getattr(entry, key) for key in ("number", "time", "action", "user", "hostname", "detail")}
            for entry in record.entries
        ],
        "head": record.head and record.head._asdict(),
        "faults": list(record.faults),
    }


def _custody_lines(known: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    if known is None:
        return
    if "error" in known:
        yield "custody", known["error"]
        return
    shown = [
        f"{entry['action']} {entry['time']} by {entry['user']} on {entry['hostname']}"
        for entry in known["entries"]
    ]
    if len(shown) > MOST_ENTRIES + 1:
        shown[1:-MOST_ENTRIES] = [f"({len(shown) - MOST_ENTRIES - 1} more)"]
    shown += [f"the record does not hold: {fault}" for fault in known["faults"]]
    for number, line in enumerate(shown):
        yield ("" if number else "custody"), line
