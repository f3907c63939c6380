"""`python -m servers`, with tests/ on PYTHONPATH.

prepare       fetches and makes what Kafka's brokers need, if it is not there. Where that cannot be had it says why; the exit code is 1
              only in CI, elsewhere the tests are skipped
kafka CMD ..  runs a command beside a broker of its own, whose address is in DTASK_KAFKA; without one, if it cannot start. The exit code
              is the command's
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from .kafka import Kafka, prepare
from .kit import VERSION, VERSIONS, Kit
from .process import Guard, ServerError


def beside_kafka(command: list[str]) -> int:
    if reason := Kit(VERSION).missing():
        print(f"! {reason}", file=sys.stderr)
        return subprocess.run(command).returncode
    with Guard() as guard:
        return subprocess.run(command, env=os.environ | {"DTASK_KAFKA": Kafka(guard).address}).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m servers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="fetch and make what Kafka's brokers need")
    beside = commands.add_parser("kafka", help="run a command beside a broker of its own")
    beside.add_argument("run", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.command == "kafka":
        return beside_kafka(arguments.run)
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
