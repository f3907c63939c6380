"""fib: recursion with waits, in Python or in C.

    python examples/fib/fib.py 15        # Python tasks
    python examples/fib/fib.py 15 --c    # the same in C (fib.c), in this process

Each call waits for its two children. A waiting handler holds no slot, so one
slot is enough for any depth.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dynatask import App

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = Path(os.environ.get("DTASK_BUILD", ROOT / "build")) / "examples/fib/fib.so"

app = App("fib")


@app.task
def fib(n: int) -> int:
    if n < 2:
        return n
    a, b = fib.spawn(n - 1), fib.spawn(n - 2)
    return a.result() + b.result()


@app.extern()
def fib_c(n: int) -> int: ...


def main() -> int:
    numbers = [a for a in sys.argv[1:] if a.isdecimal()]
    if len(numbers) != 1 or set(sys.argv[1:]) - {numbers[0], "--c"}:
        print("usage: fib.py N [--c]", file=sys.stderr)
        return 2
    n = int(numbers[0])
    in_c = "--c" in sys.argv
    with app.worker(slots=1, plugins=[str(PLUGIN)] if in_c else []):
        job = (fib_c if in_c else fib).start(n)
        print(f"fib({n}) = {job.result()}, by {job.info().counts.added} tasks on one slot")
    return 0


if __name__ == "__main__":
    sys.exit(main())
