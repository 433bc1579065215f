"""JSON that anybody may have written, read without trust."""

import json
import re
from typing import Any, Dict, List, Optional, Pattern, Tuple, Type, TypeVar

from memdump.errors import NotADump
from memdump.machine.host import Host, Instant
from memdump.machine.source import Range

T = TypeVar("T")
_ADDRESS = re.compile("0x[0-9a-f]{1,16}")
_DIGEST = re.compile("[0-9a-f]{64}")
_UTC = re.compile(
    r"[12]\d{3}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{6}Z", re.ASCII
)


def read(data: bytes) -> object:
    """Read JSON in UTF-8; raises ``ValueError`` where it is none, however it was made to be."""
    try:
        found: object = json.loads(data.decode("utf-8"), parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return found


def _integer(digits: str) -> int:
    # Python takes quadratic time for an integer of a million digits.
    if len(digits) > 25:
        raise ValueError("an integer too long")
    return int(digits)


class Fields:
    """A JSON object whose values are of the kind that is asked for, or a `NotADump` says which is not."""

    def __init__(self, values: Dict[str, Any], what: str, place: str = "") -> None:
        """Take the object; messages call the whole ``what``, and its keys after ``place``."""
        self._values = values
        self._what = what
        self._place = place

    def get(self, key: str, kind: Type[T]) -> T:
        """Give a value of exactly this kind."""
        value = self._values.get(key)
        # To Python a bool is an int, but not to those who wrote the file.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.wrong(key)
        return value

    def wrong(self, key: str) -> NotADump:
        """Make the error that names a key."""
        return NotADump(f"a damaged {self._what}: {self._place}{key} is missing or not what it should be")

    def has(self, key: str) -> bool:
        """Whether there is a value other than null."""
        return self._values.get(key) is not None

    def names(self, key: str) -> bool:
        """Whether the key is there, be its value null."""
        return key in self._values

    def text(self, key: str) -> str:
        """Give text, as long as it is well formed."""
        return self._checked(key, self.get(key, str))

    def optional_text(self, key: str) -> Optional[str]:
        """Give text or nothing."""
        return self.text(key) if self.has(key) else None

    def texts(self, key: str) -> Tuple[str, ...]:
        """Give a list of texts."""
        return tuple(self._checked(key, value) for value in self.get(key, list))

    def _checked(self, key: str, value: object) -> str:
        # JSON can spell half of a surrogate pair, which no file and no terminal takes.
        if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" for character in value):
            raise self.wrong(key)
        return value

    def count(self, key: str) -> int:
        """Give a number that is not negative."""
        value = self.get(key, int)
        if value < 0:
            raise self.wrong(key)
        return value

    def digest(self, key: str) -> str:
        """Give a SHA-256 in hex."""
        return self._matching(key, _DIGEST)

    def instant(self, key: str) -> Instant:
        """Give what two clocks showed."""
        fields = self.fields(key)
        return Instant(fields.utc("utc"), fields.count("boot_time_ns"))

    def host(self, key: str) -> Host:
        """Give what tells a machine."""
        fields = self.fields(key)
        return Host(
            hostname=fields.text("hostname"),
            kernel_release=fields.text("kernel_release"),
            kernel_version=fields.text("kernel_version"),
            machine=fields.text("machine"),
            boot_id=fields.optional_text("boot_id"),
            page_size=fields.count("page_size"),
            command_line=fields.optional_text("command_line"),
        )

    def utc(self, key: str) -> str:
        """Give a time in the one form that memdump writes."""
        return self._matching(key, _UTC)

    def _matching(self, key: str, form: Pattern[str]) -> str:
        value = self.get(key, str)
        if not form.fullmatch(value):
            raise self.wrong(key)
        return value

    def seconds(self, key: str) -> float:
        """Give a length of time."""
        return self._seconds(key, self._values.get(key))

    def all_seconds(self, key: str) -> Tuple[float, ...]:
        """Give a list of lengths of time."""
        return tuple(self._seconds(key, value) for value in self.get(key, list))

    def _seconds(self, key: str, value: object) -> float:
        # Not a number and infinity compare false.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
            raise self.wrong(key)
        return float(value)

    def fields(self, key: str) -> "Fields":
        """Give an object inside the object."""
        return self._inner(key, self.get(key, dict))

    def optional_fields(self, key: str) -> "Optional[Fields]":
        """Give an object inside the object, or nothing."""
        return self.fields(key) if self.has(key) else None

    def all_fields(self, key: str) -> "List[Fields]":
        """Give a list of objects."""
        values = enumerate(self.get(key, list))
        return [self._inner(f"{key}[{index}]", value) for index, value in values]

    def _inner(self, key: str, value: object) -> "Fields":
        if not isinstance(value, dict):
            raise self.wrong(key)
        return Fields(value, self._what, f"{self._place}{key}.")

    def ranges(self, key: str) -> Tuple[Range, ...]:
        """Give ranges, each a pair of an address in hex and a size; they must ascend and not overlap."""
        found: List[Range] = []
        end = 0
        for index, pair in enumerate(self.get(key, list)):
            start, size = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
            if not isinstance(start, str) or not _ADDRESS.fullmatch(start) or type(size) is not int:
                raise self.wrong(f"{key}[{index}]")
            span = Range(int(start, 16), size)
            if span.start < end or size <= 0 or span.end > 1 << 64:
                raise self.wrong(f"{key}[{index}]")
            found.append(span)
            end = span.end
        return tuple(found)
