"""Text from an image: nothing reaches a terminal that it would obey, and nothing is lost unseen."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdump.report.text import cut, pad, visible, well_formed, width, wrap

DIRTY = st.text(st.characters(codec=None, exclude_categories=())) | st.binary().map(
    lambda data: data.decode("utf-8", "surrogateescape")
)
PRINTABLE = DIRTY.map(visible)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("日本丸 é", "日本丸 é"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\rd\x00", "a\\nb\\tc\\rd\\x00"),
        ("\x9b", "\\u009b"),
        (b"\x9b\xff".decode("utf-8", "surrogateescape"), "\\x9b\\xff"),
        ("evil\u202egpj.exe", "evil\\u202egpj.exe"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
        ("no\u00a0break", "no\\u00a0break"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_spelt_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(DIRTY)
def test_visible_text_has_no_control_format_or_separating_characters(text: str) -> None:
    shown = visible(text)
    assert all(c == " " or unicodedata.category(c)[0] not in "CZ" for c in shown)
    assert visible(shown) == shown


@given(DIRTY)
def test_well_formed_text_can_be_encoded_and_is_otherwise_untouched(text: str) -> None:
    well_formed(text).encode()
    assert [c for c in well_formed(text) if c not in "\\x0123456789abcdefud"] == [
        c for c in text if c not in "\\x0123456789abcdefud" and not "\ud800" <= c <= "\udfff"
    ]


def test_width_counts_the_cells_of_a_terminal() -> None:
    assert [width(text) for text in ("", "abc", "日本", "e\u0301", "ﾊﾟ")] == [0, 3, 4, 1, 2]


@given(PRINTABLE, st.integers(2, 30))
def test_cut_and_padded_text_takes_just_its_room(text: str, room: int) -> None:
    assert width(cut(text, room)) <= room
    assert width(pad(cut(text, room), room)) == room
    assert cut(text, room) == text or "…" in cut(text, room)


def test_a_path_keeps_its_end_and_a_sentence_its_beginning() -> None:
    assert cut("/usr/lib/systemd/systemd-journald", 20) == "…md/systemd-journald"
    assert cut("/usr/bin/python3 -m http.server", 20) == "/usr/bin/python3 -m…"


@given(PRINTABLE, st.integers(2, 30))
def test_wrapped_text_fits_and_loses_nothing_but_spaces(text: str, room: int) -> None:
    lines = wrap(text, room)
    assert all(width(line) <= room for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@given(PRINTABLE, st.integers(2, 30), st.integers(1, 5))
def test_wrapped_text_can_be_limited(text: str, room: int, most: int) -> None:
    assert len(wrap(text, room, most)) <= most
