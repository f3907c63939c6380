"""Runs the C host from the package: the console script ``dynatask-worker``.

The host is a native program that needs no Python; this only finds it.
"""

import os
import sys
from pathlib import Path

HOST = Path(__file__).parent / "bin" / "dynatask-worker"


def worker() -> None:
    """Becomes ``dynatask-worker`` with this process' arguments; does not return."""
    try:
        os.execv(HOST, [str(HOST), *sys.argv[1:]])
    except OSError as error:
        sys.exit(f"dynatask-worker: {HOST}: {error.strerror}. Install the package with pip, which builds it.")
