"""Writes the tables of docs/guarantees.md from the results of rows.py.

    python tests/crash/guarantees.py OUT/rows.jsonl [MORE.jsonl ..]

Of each row of the fault table the last result that passed counts. A row
without one, or with one of fewer than ROUNDS rounds, is an error, and the page
stays as it is: what it says was seen, all of it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guarantees.md"
BEGIN, END = "<!-- {}: made by tests/crash/guarantees.py -->", "<!-- end -->"
ROUNDS = 20
HEAD = ["| durability | fault | lost, at most | attempts charged | test | rounds | kills | accepted | lost | doubled |", "|---|---|---|---|---|---|---|---|---|---|"]


def table(engine: str, found: Iterable[dict[str, Any]]) -> list[str]:
    """The lines of an engine's table, and the commits that its rows were seen on."""
    passed = {line["fault"]: line for line in found if line["engine"] == engine and "failed" not in line}
    lines: list[str] = []
    commits: Counter[str] = Counter()
    for row in rows.rows():
        if row.engine != engine:
            continue
        result = passed.get(row.name)
        if not result or result["rounds"] < ROUNDS:
            raise SystemExit(f"{row.id}: {'no result that passed' if not result else 'only %d rounds' % result['rounds']}, and {ROUNDS} rounds are wanted")
        commits[result["commit"]] += 1
        counts = (f"{result[key]:,}" for key in ("rounds", "strikes", "accepted", "lost", "doubled"))
        fault = row.fault
        lines.append(f"| {' | '.join([fault.durability, fault.about, fault.loses, 'those that ran' if fault.charges else 'none', f'`{row.id}`', *counts])} |")
    seen = ", ".join(f"{commit} ({n} row{'s' * (n > 1)})" for commit, n in commits.items())
    return [*HEAD, *lines, "", f"Seen on commits {seen}."]


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
