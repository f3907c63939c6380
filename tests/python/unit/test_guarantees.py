"""The tables of docs/guarantees.md are made of what was seen, or not at all."""

import sys
from pathlib import Path
from typing import Any

import pytest

CRASH = Path(__file__).resolve().parents[2] / "crash"
sys.path.insert(0, str(CRASH))

import guarantees  # noqa: E402
import rows  # noqa: E402

PAGE = "head\n<!-- redis: made by tests/crash/guarantees.py -->\nold\n<!-- end -->\nmiddle\n<!-- kafka: made by tests/crash/guarantees.py -->\n<!-- end -->\ntail\n"


def results() -> list[dict[str, Any]]:
    return [
        {"engine": row.engine, "fault": row.name, "commit": "abc" if i else "def", "rounds": 20, "strikes": 20 + i, "accepted": 1000 + i, "lost": 0, "doubled": 0}
        for i, row in enumerate(rows.rows())
    ]


def test_each_row_is_there_once_and_the_rest_of_the_page_stays() -> None:
    made = guarantees.page(PAGE, results())
    assert made.startswith("head\n") and "\nmiddle\n" in made and made.endswith("\ntail\n") and "old" not in made
    for i, row in enumerate(rows.rows()):
        assert made.count(f"| `{row.id}` | 20 | {20 + i} | {1000 + i:,} | 0 | 0 |") == 1
    assert made.count("(1 row)") == 1 and made.count("Seen on commits") == 2
    assert guarantees.page(made, results()) == made


def test_the_last_result_that_passed_counts() -> None:
    found = results()
    found += [found[0] | {"accepted": 77}, found[0] | {"accepted": 88, "failed": "why"}]
    assert f"| `{rows.rows()[0].id}` | 20 | 20 | 77 | 0 | 0 |" in guarantees.page(PAGE, found)


@pytest.mark.parametrize("spoil", [{"failed": "why"}, {"rounds": 19}, {"fault": "another"}])
def test_a_row_that_was_not_seen_is_named(spoil: dict[str, Any]) -> None:
    found = results()
    found[3] |= spoil
    with pytest.raises(SystemExit, match=rows.rows()[3].id):
        guarantees.page(PAGE, found)
