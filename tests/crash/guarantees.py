"""Writes the tables of docs/guarantees.md from the results of rows.py.

    python tests/crash/guarantees.py OUT/rows.jsonl [MORE.jsonl ..]

Of each row of the fault table the last result that passed counts. A row
without one, or with one of fewer than ROUNDS rounds, is an error, and the page
stays as it is: what it says was seen, all of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guarantees.md"
BEGIN, END = "<!-- {}: made by tests/crash/guarantees.py -->", "<!-- end -->"
ROUNDS = 20
HEAD = ["| durability | fault | lost, at most | attempts charged | test | strikes | accepted | lost | doubled |", "|---|---|---|---|---|---|---|---|---|"]


def table(engine: str, found: Iterable[dict[str, Any]]) -> list[str]:
    """The lines of an engine's table."""
    passed = {line["fault"]: line for line in found if line["engine"] == engine and "failed" not in line}
    lines: list[str] = []
    for row in rows.rows():
        if row.engine != engine:
            continue
        result = passed.get(row.name)
        if not result or result["rounds"] < ROUNDS:
            raise SystemExit(f"{row.id}: {'no result that passed' if not result else 'only %d rounds' % result['rounds']}, and {ROUNDS} rounds are wanted")
        counts = (f"{result[key]:,}" for key in ("strikes", "accepted", "lost", "doubled"))
        fault = row.fault
        lines.append(f"| {' | '.join([fault.durability, fault.about, fault.loses, 'those that ran' if fault.charges else 'none', f'`{row.id}`', *counts])} |")
    return [*HEAD, *lines]


def page(text: str, found: list[dict[str, Any]]) -> str:
    """The page with its tables made anew."""
    for engine in ("redis", "kafka"):
        begin = BEGIN.format(engine)
        head, rest = text.split(begin)
        text = head + "\n".join([begin, *table(engine, found), END]) + rest.split(END, 1)[1]
    return text


def main(*files: str) -> None:
    found = [line for file in files for line in rows.results(Path(file))]
    PAGE.write_text(page(PAGE.read_text(), found))


if __name__ == "__main__":
    main(*sys.argv[1:])
