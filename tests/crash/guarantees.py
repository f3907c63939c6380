"""Writes the table of docs/guarantees.md from results of crash rounds.

    python tests/crash/redis_rounds.py --fault kill-always --rounds 20 --seed 7 > kill-always.jsonl
    python tests/crash/guarantees.py kill-always.jsonl full.jsonl ..

Each file is what one run has printed. A row is made of its first line (what it
is) and its last (the sums); a run that failed has none, and is an error.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guarantees.md"
BEGIN, END = "<!-- made by tests/crash/guarantees.py -->", "<!-- end -->"


def row(file: Path) -> str:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    about, sums = lines[0]["about"], lines[-1]
    if "ok" not in sums:
        raise SystemExit(f"{file}: no run that passed: {sums}")
    cells = [f"`{sums['fault']}`", about, *(f"{sums[key]:,}" for key in ("ok", "strikes", "accepted", "lost", "doubled"))]
    return f"| {' | '.join(cells)} |"


def main(*files: str) -> None:
    paths = [Path(file) for file in files]
    date = max(datetime.date.fromtimestamp(path.stat().st_mtime) for path in paths)
    block = [
        BEGIN, f"Made on {date} by `python tests/crash/redis_rounds.py --fault FAULT --rounds 20 --seed 7` for each row.", "",
        "| fault | what it is | rounds | strikes | accepted | lost | doubled |", "|---|---|---|---|---|---|---|", *map(row, paths), END,
    ]  # fmt: skip
    text = PAGE.read_text()
    head, rest = text.split(BEGIN)
    PAGE.write_text(head + "\n".join(block) + rest.split(END)[1])


main(*sys.argv[1:])
