"""Markdown tables, and where they stand in a document."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

END = "<!-- end of tables -->"


def number(value: float) -> str:
    """Three significant digits, without an exponent; nothing is a dash."""
    if value == 0:
        return "-"
    places = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):,.{max(places, 0)}f}"


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table under its title."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return f"**{title}**\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def written(text: str, begin: str, new: str) -> str:
    """A document with what is between the marker ``begin`` and the next ``END`` replaced."""
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{new}\n{END}{rest.partition(END)[2]}"


def write(document: Path, begin: str, new: str) -> None:
    """Puts tables into a document, see :func:`written`."""
    document.write_text(written(document.read_text(encoding="utf-8"), begin, new), encoding="utf-8")
