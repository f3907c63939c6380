"""The fleet's answer, found by other programs: find, grep, tr, sort, uniq, sha256sum.

    python examples/fleet/oracle.py DIR

Prints `words=… distinct=… sha256=…` as fleet does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

# $1: the folder, $2: a file for the table.
SCRIPT = r"""
find "$1" -type f -exec grep -aohE '[A-Za-z]+' {} + | tr A-Z a-z | sort | uniq -c | awk '{ print $2, $1 }' >"$2"
awk '{ words += $2 } END { printf "%d %d\n", words, NR }' "$2"
sha256sum <"$2"
"""


def answer(folder: str) -> dict[str, str]:
    with tempfile.NamedTemporaryFile() as table:
        env = {**os.environ, "LC_ALL": "C"}
        run = subprocess.run(["sh", "-c", SCRIPT, "sh", folder, table.name], capture_output=True, text=True, env=env, check=True)
    words, distinct, sha256 = run.stdout.split()[:3]
    return {"words": words, "distinct": distinct, "sha256": sha256}


if __name__ == "__main__":
    if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
        sys.exit("usage: oracle.py DIR   (an existing folder)")
    print(" ".join(f"{name}={value}" for name, value in answer(sys.argv[1]).items()))
