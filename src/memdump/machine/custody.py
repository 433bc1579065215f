"""The chain of custody: who acquired, opened, converted or verified an image, ``IMAGE.custody.jsonl``.

A line is an entry.  Each holds the SHA-256 of the line before it, so none can be changed, taken out, put in
or moved unseen; the image's own file carries number and digest of the last one in an extended attribute, so
that those at the end cannot be taken off unseen either.  ``docs/custody.md`` says what that proves, and what
it does not.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pwd
import re
import stat
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from memdump import __version__
from memdump.errors import MemdumpError, NotADump
from memdump.machine import document, host, manifest
from memdump.machine.document import Fields

SUFFIX = ".custody.jsonl"
ACTIONS = ("acquired", "received", "opened", "converted", "exported", "verified")
ATTRIBUTE = "user.memdump.custody"
"""The extended attribute of the image that holds its `Head` as text."""
FIRST = "0" * 64
"""What stands for the line before the first."""
LARGEST = 64 << 20
"""Bytes of a record that is checked: some hundred thousand entries."""

_BEGINNING = ("acquired", "received")
_LONGEST_WORD, _MOST_WORDS = 1000, 40
_TAIL = 1 << 20
"""Bytes at the end in which the last entry is looked for, which takes half of them at most."""
_WAIT = 2.0
"""Seconds for which another writer is waited for; each takes some milliseconds."""
_DIGEST = b',"digest":"'
_HEAD = re.compile(r"(\d{1,15}) ([0-9a-f]{64})")


class Subject(NamedTuple):
    """The image that an entry is about."""

    name: str
    """Of the file, without its folder."""
    size: Optional[int]
    sha256: Optional[str]
    """Of the file, where it was computed or compared just then."""


class Entry(NamedTuple):
    """A line of the record."""

    number: int
    """From 1."""
    time: str
    """Of the wall clock, in UTC."""
    boot_time_ns: int
    action: str
    user: str
    uid: int
    sudo_user: Optional[str]
    """Who called ``sudo``."""
    hostname: str
    boot_id: Optional[str]
    command: Sequence[str]
    memdump: str
    image: Subject
    detail: Optional[str]
    previous: str
    """SHA-256 of the line before, its newline included."""


class Head(NamedTuple):
    """The last entry: who knows it can tell whether entries are missing at the end."""

    number: int
    sha256: str
    """Of its line, the newline included."""

    def __str__(self) -> str:
        return f"{self.number} {self.sha256}"


class Record(NamedTuple):
    """A record that was checked."""

    entries: Sequence[Entry]
    """Those that could be read."""
    head: Optional[Head]
    marked: Optional[Head]
    """What the image's file says the head is, or was when it last could be marked."""
    faults: Sequence[str]
    """What does not hold; empty where all does."""


def path_of(image: str) -> str:
    """Name the record that belongs to an image, finished or not."""
    return manifest.path_of(image)[: -len(".json")] + SUFFIX


def first(action: str, image: Subject, detail: Optional[str] = None) -> bytes:
    """Give a record of one entry, for an image that goes where nothing can be appended."""
    return _line(1, FIRST, action, image, detail)


def append(
    image: str, action: str, detail: Optional[str] = None, sha256: Optional[str] = None
) -> Optional[Head]:
    """Add an entry to the record of an image, and mark the image's file with it.

    Only ``acquired`` and ``received`` begin a record; where there is none, other actions leave none.  Raises
    `MemdumpError` where the entry cannot be written, which is no reason to stop.
    """
    path = path_of(image)
    try:
        with _opened(path, create=action in _BEGINNING) as record:
            number, previous, torn = _end(record, path)
            line = _line(number + 1, previous, action, _subject(image, sha256), detail)
            _write(record, torn + line)
            head = Head(number + 1, hashlib.sha256(line).hexdigest())
            mark(image, head)
            return head
    except FileNotFoundError:
        if action not in _BEGINNING:
            return None
        raise MemdumpError(f"{path}: cannot be created: there is no such folder") from None
    except OSError as error:
        raise MemdumpError(f"{path}: this is not recorded: {error.strerror}") from None


def mark(image: str, head: Head) -> None:
    """Write the head into an attribute of the image's file, as far as its file system and mode allow."""
    with contextlib.suppress(OSError):
        os.setxattr(_file(image), ATTRIBUTE, str(head).encode())


def _file(image: str) -> str:
    """Give the file that bears the mark: of an image in pieces the first, ``IMAGE.000``."""
    if Path(image).exists():
        return image
    whole = image[: -len(".part")] if image.endswith(".part") else image
    return f"{whole}.000{image[len(whole) :]}"


def check(image: str) -> Optional[Record]:
    """Check the record of an image against itself and the mark; gives nothing where there is neither.

    Raises `MemdumpError` where there is one that cannot be read.
    """
    path, marked = path_of(image), _marked(image)
    try:
        with Path(path).open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        if marked is None:
            return None
        return Record([], None, marked, [f"is missing, but the image is marked with entry {marked.number}"])
    except OSError as error:
        raise MemdumpError(f"{path}: {error.strerror}") from None
    if len(data) > LARGEST:
        raise MemdumpError(f"{path}: too large for a record of custody")
    return check_lines(data, marked)


def check_lines(data: bytes, marked: Optional[Head] = None) -> Record:
    """Check the bytes of a record, which may be anybody's."""
    entries: List[Entry] = []
    faults: List[str] = [] if data else ["is empty"]
    heads: Dict[int, str] = {}
    expected: Optional[Tuple[int, str]] = (1, FIRST)
    *lines, rest = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            entry = _entry(line + b"\n")
        except NotADump as error:
            faults.append(f"line {number} {error}")
            expected = None  # what follows does not fit, which is told already
            continue
        if expected is not None and expected != (entry.number, entry.previous):
            faults.append(_broken(number))
        digest = hashlib.sha256(line + b"\n").hexdigest()
        entries.append(entry)
        heads.setdefault(entry.number, digest)
        expected = entry.number + 1, digest
    if rest:
        faults.append(f"line {len(lines) + 1} is cut off")
    if marked is not None and heads.get(marked.number) != marked.sha256:
        faults.append(_unmarked(marked, max(heads, default=0)))
    head = Head(entries[-1].number, heads[entries[-1].number]) if entries else None
    return Record(entries, head, marked, faults)


def _broken(line: int) -> str:
    if line == 1:
        return "line 1 is not the first entry: others before it were removed"
    return (
        f"line {line} does not follow line {line - 1}: one of them was changed, or an entry between them"
        " removed, put in or moved"
    )


def _unmarked(marked: Head, last: int) -> str:
    if marked.number > last:
        return f"ends with entry {last}, but the image is marked with {marked.number}: the last are missing"
    return f"has another entry {marked.number} than the image is marked with: it was written anew"


def _marked(image: str) -> Optional[Head]:
    try:
        text = os.getxattr(_file(image), ATTRIBUTE).decode("ascii", "replace")
    except OSError:
        return None
    found = _HEAD.fullmatch(text)
    return Head(int(found[1]), found[2]) if found else None


def _subject(image: str, sha256: Optional[str]) -> Subject:
    try:
        size: Optional[int] = Path(image).stat().st_size
    except OSError:
        size = None
    return Subject(host.printable(Path(image).name), size, sha256)


def _line(number: int, previous: str, action: str, image: Subject, detail: Optional[str]) -> bytes:
    """Spell an entry about what this process does now."""
    now, this = host.now(), host.this_host()
    entry = Entry(
        number=number,
        time=now.utc,
        boot_time_ns=now.boot_time_ns,
        action=action,
        user=_user(os.geteuid()),
        uid=os.geteuid(),
        sudo_user=_sudo_user(),
        hostname=this.hostname,
        boot_id=this.boot_id,
        command=_short(manifest.command(sys.argv)),
        memdump=__version__,
        image=image,
        detail=detail,
        previous=previous,
    )
    values: Dict[str, Any] = {**entry._asdict(), "image": image._asdict()}
    content = json.dumps(values, separators=(",", ":")).encode()[:-1]
    return content + _seal(content)


def _seal(content: bytes) -> bytes:
    """Give the end of a line: the digest of what is before it."""
    return _DIGEST + hashlib.sha256(content).hexdigest().encode() + b'"}\n'


def _entry(line: bytes) -> Entry:
    """Read a line; raises `NotADump` with what is wrong with it."""
    content = line[: line.rfind(_DIGEST)]
    if line != content + _seal(content):
        raise NotADump("was changed after it was written, or only half written")
    try:
        values = document.read(content + b"}")
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise NotADump("is no entry")
    found = Fields(values, "entry")
    return Entry(
        number=found.count("number"),
        time=found.utc("time"),
        boot_time_ns=found.count("boot_time_ns"),
        action=found.text("action"),
        user=found.text("user"),
        uid=found.count("uid"),
        sudo_user=found.optional_text("sudo_user"),
        hostname=found.text("hostname"),
        boot_id=found.optional_text("boot_id"),
        command=found.texts("command"),
        memdump=found.text("memdump"),
        image=_image(found.fields("image")),
        detail=found.optional_text("detail"),
        previous=found.digest("previous"),
    )


def _image(fields: Fields) -> Subject:
    return Subject(
        name=fields.text("name"),
        size=fields.count("size") if fields.has("size") else None,
        sha256=fields.digest("sha256") if fields.has("sha256") else None,
    )


def _user(uid: int) -> str:
    try:
        return host.printable(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)


def _sudo_user() -> Optional[str]:
    name = os.environ.get("SUDO_USER")
    return None if name is None else host.printable(name)


def _short(command: Sequence[str]) -> List[str]:
    """Cut a command line down to what a line can hold: a query may be long."""
    words = [
        word if len(word) <= _LONGEST_WORD else f"{word[:_LONGEST_WORD]}[{len(word) - _LONGEST_WORD} more]"
        for word in command[:_MOST_WORDS]
    ]
    return words + [f"[{len(command) - _MOST_WORDS} more]"] * (len(command) > _MOST_WORDS)


@contextlib.contextmanager
def _opened(path: str, create: bool) -> Iterator[int]:
    """Open a record for this writer alone."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    record = os.open(path, flags | (os.O_CREAT if create else 0), 0o600)
    try:
        if not stat.S_ISREG(os.fstat(record).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        _lock(record)
        yield record
    finally:
        os.close(record)


def _lock(record: int) -> None:
    until = time.monotonic() + _WAIT
    while True:
        try:
            fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise OSError(errno.EAGAIN, "another program keeps it locked") from None
            time.sleep(0.005)


def _end(record: int, path: str) -> Tuple[int, str, bytes]:
    """Give number and digest of the last line, and the newline that it lacks where it was cut off."""
    size = os.fstat(record).st_size
    if not size:
        return 0, FIRST, b""
    data = os.pread(record, _TAIL, max(size - _TAIL, 0))
    torn = b"" if data.endswith(b"\n") else b"\n"
    lines = [line + b"\n" for line in (data + torn).split(b"\n")[:-1]]
    # The number is that of the last line which is an entry, and of those behind it that are damaged.
    for damaged, line in enumerate(reversed(lines)):
        with contextlib.suppress(NotADump):
            return _entry(line).number + damaged, hashlib.sha256(lines[-1]).hexdigest(), torn
    raise MemdumpError(f"{path}: this is not recorded: the record is damaged; 'memdump verify' says where")


def _write(record: int, line: bytes) -> None:
    """Add a line in one write, and see that it is on the disk before the image is marked with it."""
    size = os.fstat(record).st_size
    if os.write(record, line) != len(line):
        os.ftruncate(record, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fdatasync(record)
