"""Writes the tables of docs/guarantees.md from results of crash rounds.

    python tests/crash/redis_rounds.py --fault kill-always --rounds 20 --seed 7 > kill-always.jsonl
    python tests/crash/guarantees.py kill-always.jsonl full.jsonl ..

Each file is what one run has printed. A row is made of its first line (what it
is) and its last (the sums); a run that failed has none, and is an error. It
replaces the row of the same fault in the table of its program, or is added.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guarantees.md"
BEGIN, END = "<!-- made by tests/crash/guarantees.py from {} -->", "<!-- end -->"
HEAD = ["| fault | what it is | rounds | strikes | accepted | lost | doubled |", "|---|---|---|---|---|---|---|"]


def row(lines: list[dict[str, object]], file: str) -> str:
    about, sums = lines[0]["about"], lines[-1]
    if "ok" not in sums:
        raise SystemExit(f"{file}: no run that passed: {sums}")
    cells = [f"`{sums['fault']}`", about, *(f"{sums[key]:,}" for key in ("ok", "strikes", "accepted", "lost", "doubled"))]
    return f"| {' | '.join(map(str, cells))} |"


def fault(row: str) -> str:
    return row.split("|")[1].strip()


def main(*files: str) -> None:
    text = PAGE.read_text()
    for file in files:
        lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
        begin = BEGIN.format(lines[0]["program"])
        head, rest = text.split(begin)
        table, tail = rest.split(END, 1)
        rows = {fault(old): old for old in table.splitlines() if old.startswith("| `")}
        new = row(lines, file)
        rows[fault(new)] = new
        text = head + "\n".join([begin, *HEAD, *rows.values(), END]) + tail
    PAGE.write_text(text)


main(*sys.argv[1:])
