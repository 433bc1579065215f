"""Where an image goes, and whether that is a good place for it."""

import abc
import contextlib
import os
import re
import select
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Callable, List, NamedTuple, Optional, Sequence, Tuple, Type, Union

from memdump.errors import MemdumpError, UsageError

if TYPE_CHECKING:
    from memdump.machine.manifest import Part
    from memdump.machine.output import Content, Output

_MOUNTS = "/proc/self/mountinfo"
_SECRET = re.compile(r"^(\w+://)([^/?#]*@)?([^?#]*).*$", re.DOTALL)
_ZEROS = memoryview(bytes(1 << 18))
_IN_RAM = ("tmpfs", "ramfs", "devtmpfs", "rootfs")
_DEVICES = "/sys/dev/block"
_DEVICE_IN_RAM = re.compile(r"(?:zram|ram)\d+")
"""What the kernel calls its disks that are memory (``drivers/block/zram``, ``drivers/block/brd.c``)."""


class Destination(abc.ABC):
    """A place that takes an image: use it in a ``with`` block and end it with `commit` or `abandon`."""

    place: str
    """The image's path or address, as a user may see it: without the signature of a signed address."""
    file: Optional[str] = None
    """The image's name without its folder; None for standard output."""
    partial: str
    """Where the bytes are when the run is stopped: ``what was written stands in web1.lime.part``."""
    output: "Optional[Output]" = None
    """The file itself, where it is one and bytes may be written to any place in it."""
    attaches: bool = True
    """Whether `attach` has a place to put things."""

    @property
    def parts(self) -> "Sequence[Part]":
        """The files that the image was split into, as far as it is written; none where it is in one."""
        return ()

    @property
    def trouble(self) -> Optional[str]:
        """Why the image should come to an early but orderly end (the disk is full), else None.

        What can still be written then is what it takes to end the image.
        """
        return None

    @abc.abstractmethod
    def write(self, data: Union[bytes, memoryview], /) -> object:
        """Take all of ``data``, which is the caller's again afterwards; raises `MemdumpError`."""

    def skip(self, size: int) -> None:
        """Take so many zeros, which need no room where they can be left out; raises `MemdumpError`."""
        while size:
            part = min(size, len(_ZEROS))
            self.write(_ZEROS[:part])
            size -= part

    @abc.abstractmethod
    def commit(self) -> None:
        """All is written: make it durable and give it its name; raises `MemdumpError` where that fails."""

    @abc.abstractmethod
    def abandon(self) -> None:
        """End it as the part that it is, and keep what can be kept.

        Never raises, and does nothing after an end.
        """

    @abc.abstractmethod
    def attach(self, suffix: str, data: "Content") -> None:
        """Put a file beside the image, after its end; raises `MemdumpError` where that fails.

        The suffix (``.json``) goes behind the image's whole name, that of the finished image even where it
        is not finished.
        """

    def deliver(self, progress: Callable[[int], None], stop: Callable[[], Optional[str]]) -> None:  # noqa: B027
        """Send on what was only kept here so far, after the last attachment; raises `MemdumpError`.

        ``progress`` gets the bytes sent so far, ``stop`` may give a reason to end early.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the place, after the last attachment."""

    def __enter__(self) -> "Destination":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.abandon()
        self.close()


class Options(NamedTuple):
    """What a destination may need to know; each takes what concerns it."""

    name: str
    """The image's name where ``OUT`` does not say it: in a folder, over the network."""
    layers: Sequence[str] = ()
    """What the image is wrapped in, inner layer first: ``("zstd", "age")``."""
    size: int = 0
    """Bytes that the image may come to, at most; 0 where that is not known."""
    exact: bool = False
    """Whether ``size`` is exactly what it comes to."""
    attachments: Sequence[str] = ()
    """The suffixes that are going to be attached: what has such a name already is told at the start."""
    reserve: int = 0
    """Bytes of the disk kept free until it is full, for the orderly end."""
    split: int = 0
    """Bytes of a piece; 0 for one file."""
    hasty: bool = False
    """Whether the system may keep what is written in memory and put it on the disk in its own time."""
    spool: Optional[Path] = None
    """Folder here for an image that a server takes only when its length is known."""
    tls: bool = False
    """Whether tcp is encrypted."""
    tls_ca: Optional[str] = None
    """Certificates (PEM) that the other side is checked against, in place of the system's."""
    tls_cert: Optional[str] = None
    """Our own certificate (PEM)."""
    tls_key: Optional[str] = None
    """Its key, where the file of the certificate does not hold it."""


def open_destination(out: str, options: Options) -> Destination:
    """Open the place that ``out`` names: ``-``, a file or folder, or an address.

    Raises `UsageError` where it makes no sense or is taken, and `MemdumpError` where it does not answer.
    """
    if out == "-":
        return StandardOutput()
    if out.lower().startswith("tcp:"):
        from memdump.machine.tcp import TcpDestination

        return TcpDestination(out[len("tcp:") :], options)
    scheme, found, _ = out.partition("://")
    if found and scheme.lower() in ("http", "https"):
        if options.spool is not None:
            from memdump.machine.http_spool import SpooledPut

            return SpooledPut(out, options, options.spool)
        from memdump.machine.http_put import HttpDestination

        return HttpDestination(out, options)
    if found and scheme.lower() in ("s3", "gs", "az"):
        from memdump.machine.object_store import ObjectDestination

        return ObjectDestination(out, options)
    check_address(out, options)
    from memdump.machine.file_destination import FileDestination

    path = Path(out)
    return FileDestination(path / options.name if path.is_dir() else path, options)


def check_address(out: str, options: Options) -> None:
    """See that ``out``, if it names no file, is an address, and that what TLS needs is there.

    Raises `UsageError`; nobody is asked.
    """
    if options.tls_ca or options.tls_cert or options.tls_key:
        from memdump.machine.tls import Identity

        Identity(options.tls_ca, options.tls_cert, options.tls_key).client()
    scheme, found, _ = out.partition("://")
    if out.lower().startswith("tcp:"):
        from memdump.machine import wire

        wire.address(out[len("tcp:") :])
    elif found and scheme.lower() in ("http", "https"):
        from memdump.machine import http_put

        http_put.parse(out, shown(out))
    elif found and scheme.lower() in ("s3", "gs", "az"):
        from memdump.machine import object_store

        object_store.parse(out, options.name)
    elif found and scheme.isalnum():
        raise UsageError(f"{scheme}: is no way to send an image; tcp:, http:, https:, s3:, gs: and az: are")


def shown(out: str) -> str:
    """Take away from an address what gives access: the query with its signature, a name and a password.

    Anything else, be it a path with a question mark, is given back as it is.
    """
    return _SECRET.sub(r"\1\3", out)


class StandardOutput(Destination):
    """Standard output as the place an image is written to."""

    place = "standard output"
    partial = "the image on standard output is not whole"
    attaches = False

    def __init__(self) -> None:
        """Take it; raises `UsageError` where it is closed or a terminal."""
        if sys.stdout is None:
            raise UsageError("standard output is closed: name a file, or send standard output on")
        self._fd = sys.stdout.fileno()
        if os.isatty(self._fd):
            raise UsageError("an image is not written to a terminal: name a file, or send standard output on")

    def write(self, data: Union[bytes, memoryview], /) -> None:
        """Write all of ``data``; raises `MemdumpError` where nobody takes it any more."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._write(view) :]
        except OSError as error:
            raise MemdumpError(f"standard output: {error.strerror}; the image there is not whole") from None

    def _write(self, view: memoryview) -> int:
        try:
            return os.write(self._fd, view)
        except BlockingIOError:  # whoever made it set it so, and it is full: wait until it is not
            ready = select.poll()
            ready.register(self._fd, select.POLLOUT)
            ready.poll()
            return 0

    def commit(self) -> None:
        """Do nothing: who reads it sees its end."""

    def abandon(self) -> None:
        """Do nothing: nobody can be told here that it is not whole."""

    def attach(self, suffix: str, data: "Content") -> None:  # noqa: ARG002
        """Refuse: there is nothing beside it."""
        raise MemdumpError(f"{suffix} finds no place: standard output takes the image alone")

    def close(self) -> None:
        """Do nothing: standard output stays open."""


def check(path: Path, size: int) -> None:
    """See that an image of ``size`` bytes may and can stand at ``path``.

    Raises `UsageError` where its folder is missing, lies in the very memory that is to be taken, or lacks the
    room.
    """
    free, kind = room(path)
    way_out = 'name a file on a disk, or write to "-" and send it to another machine'
    memory = kind if kind in _IN_RAM else _disk_in_ram(path.parent)
    if memory:
        raise UsageError(
            f"{path.parent} lies in memory ({memory}): the image would overwrite what it is to hold;"
            f" {way_out}"
        )
    if free is not None and free < size:
        raise UsageError(
            f"{path.parent} has room for {free >> 20} MiB and the image takes {-(-size >> 20)}; {way_out}"
        )


def room(path: Path) -> Tuple[Optional[int], Optional[str]]:
    """Give the bytes that a new file ``path`` may take, and the type of its file system, as far as known.

    Raises `UsageError` where its folder is missing.
    """
    try:
        found = os.statvfs(path.parent)
    except OSError as error:
        raise UsageError(f"{path.parent}: {error.strerror}; name a folder that exists") from None
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: is no folder; name one")
    free = (found.f_bfree if os.geteuid() == 0 else found.f_bavail) * found.f_frsize
    # Some network file systems know no sizes and say zero.
    return free if found.f_blocks else None, _file_system(path.parent)


def _disk_in_ram(folder: Path, mounts: str = _MOUNTS, devices: str = _DEVICES) -> Optional[str]:
    """Name the disk that takes what is written to a folder, where that is memory: ``zram0``, ``ram1``.

    A disk that is made of others (LVM, RAID, encryption) has those in ``slaves``
    (kernel, ``Documentation/ABI/stable/sysfs-block``).
    """
    folder = _upper(_mounted(folder, mounts)) or folder
    waiting = [os.path.realpath(f"{devices}/{number}") for number in _disk(folder, mounts)]
    for known in range(100):  # no real stack is that high
        if known == len(waiting):
            return None
        found = _DEVICE_IN_RAM.fullmatch(Path(waiting[known]).name)
        if found:
            return found[0]
        with contextlib.suppress(OSError):
            waiting += [os.path.realpath(below) for below in Path(waiting[known], "slaves").iterdir()]
    return None


def _disk(folder: Path, mounts: str) -> List[str]:
    """Give the numbers of the disk that a folder is on: its own, and that of what is mounted there."""
    numbers = []
    with contextlib.suppress(OSError):
        device = folder.stat().st_dev
        numbers.append(f"{os.major(device)}:{os.minor(device)}")
        # btrfs has numbers of its own for what stands on a disk.
        disk = Path(_mounted(folder, mounts).source).stat()
        if stat.S_ISBLK(disk.st_mode):
            numbers.append(f"{os.major(disk.st_rdev)}:{os.minor(disk.st_rdev)}")
    return numbers


def _file_system(folder: Path, mounts: str = _MOUNTS) -> Optional[str]:
    """Name the type of the file system that takes what is written to a folder.

    The layout is that of ``mountinfo`` (kernel, ``Documentation/filesystems/proc.rst``).  An overlay, as
    live systems have, keeps it in its upper folder.
    """
    mounted = _mounted(folder, mounts)
    upper = _upper(mounted)
    return (_mounted(upper, mounts).kind if upper else None) or mounted.kind


def _upper(mounted: "_Mounted") -> Optional[Path]:
    """Give the folder that takes what is written to an overlay."""
    for option in mounted.options.split(","):
        if mounted.kind == "overlay" and option.startswith("upperdir="):
            return Path(option[len("upperdir=") :])
    return None


class _Mounted(NamedTuple):
    kind: Optional[str] = None
    source: str = ""
    options: str = ""


def _mounted(folder: Path, mounts: str) -> _Mounted:
    """Tell of the file system that a folder is on."""
    try:
        device = folder.stat().st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        for line in Path(mounts).read_text("utf-8", "surrogateescape").split("\n"):
            head, _, tail = line.partition(" - ")
            if head.split(" ")[2:3] == [number]:
                return _Mounted(*tail.split(" ", 2))
    except (OSError, TypeError):
        pass
    return _Mounted()
