"""`python -m servers prepare`, with tests/ on PYTHONPATH: fetches and makes what Kafka's brokers need, if it is not there.

Where that cannot be had it says why; the exit code is 1 only in CI, elsewhere the tests are skipped.
"""

from __future__ import annotations

import argparse
import os
import sys

from .kafka import prepare
from .kit import VERSIONS
from .process import ServerError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m servers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="fetch and make what Kafka's brokers need")
    parser.parse_args()
    failed = False
    for version in VERSIONS:
        try:
            prepare(version, lambda text: print(f"· {text}", file=sys.stderr))
        except ServerError as error:
            print(f"! Kafka {version} cannot be had, its tests will be skipped: {' '.join(str(error).split())}", file=sys.stderr)
            failed = True
    return 1 if failed and (os.environ.get("CI") == "true" or os.environ.get("DTASK_CI")) else 0


if __name__ == "__main__":
    sys.exit(main())
