"""A part of the screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memdump.report.styled import Line


@dataclass(frozen=True, slots=True)
class Section:
    """A title's ``summary``, the most important ``lines``, and what ``more`` the ``table`` shows."""

    summary: str
    lines: list[Line]
    table: str = ""
    more: str = ""
