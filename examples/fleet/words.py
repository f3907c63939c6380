"""words: how often each word stands in the files of a folder, by types that live on different hosts.

    python examples/fleet/words.py DIR     # all types in this process
    python examples/fleet/fleet.py DIR     # four workers, each with its own types

    type      language  its host has
    corpus    Python    nothing: it asks for the pieces and puts them together
    listing   Python    the files
    shard     Python    the files: cuts one into pieces of text, between words
    tally     C         a processor: the table of a piece (words.c)
    merge     C         a processor: one table of two (words.c)
    rank      Python    nothing: what a table says, for people

Only where `listing` and `shard` run the files must lie; text and tables travel
in arguments and results. A word is a run of the letters a to z, either case.
Symlinks are not followed; a file that cannot be read fails the job.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dynatask import App, Job, then

PIECE = 32 << 10
TOP = 10
ROOT = Path(__file__).resolve().parents[2]
PLUGIN = Path(os.environ.get("DTASK_BUILD", ROOT / "build")) / "examples/fleet/words.so"

app = App("fleet")


class Ranking(NamedTuple):
    words: int
    distinct: int
    sha256: str  # of the lines "word count", in order
    top: list[tuple[str, int]]


@app.extern()
def tally(text: bytes) -> bytes: ...


@app.extern()
def merge(a: bytes, b: bytes) -> bytes: ...


@app.task
def listing(folder: bytes) -> list[bytes]:
    """Its regular files and those below it, sorted."""
    found: list[bytes] = []

    def stop(error: OSError) -> None:
        raise error

    for top, _, names in os.walk(folder, onerror=stop):
        paths = (os.path.join(top, name) for name in names)
        found += (path for path in paths if stat.S_ISREG(os.lstat(path).st_mode))
    return sorted(found)


def pieces(text: bytes) -> Iterator[bytes]:
    """Of PIECE bytes, longer where that would cut a word."""
    at = 0
    while at < len(text):
        end = at + PIECE
        while end < len(text) and text[end - 1 : end + 1].isalpha():
            end += 1
        yield text[at:end]
        at = end


@app.task
def shard(path: bytes) -> bytes:
    """The table of one file."""
    with open(path, "rb") as file:
        text = file.read()
    return tally.map(pieces(text)).reduce(merge).result() if text else b""


@app.task
def rank(table: bytes) -> Ranking:
    counts = [(word.decode(), int(n)) for word, n in (line.split() for line in table.splitlines())]
    top = sorted(counts, key=lambda one: (-one[1], one[0]))[:TOP]
    return Ranking(sum(n for _, n in counts), len(counts), hashlib.sha256(table).hexdigest(), top)


@app.task
def corpus(folder: bytes) -> Ranking:
    files = listing.spawn(folder).result()
    if not files:
        return then(rank, b"")
    return then(rank, shard.map(files).reduce(merge).output)


def start(folder: str) -> Job[Ranking]:
    return corpus.start(os.fsencode(os.path.abspath(folder)))


def report(job: Job[Ranking], seconds: float) -> None:
    """The end, for people; its last line also for programs."""
    ranking = job.result()
    for word, n in ranking.top:
        print(f"{n:10} {word}")
    tasks = job.info().counts.added
    print(f"words={ranking.words} distinct={ranking.distinct} sha256={ranking.sha256} tasks={tasks} seconds={seconds:.2f}")


def main() -> int:
    if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
        print("usage: words.py DIR   (an existing folder)", file=sys.stderr)
        return 2
    began = time.monotonic()
    with app.worker(plugins=[str(PLUGIN)]):
        job = start(sys.argv[1])
        for info in job:
            print(f"{info.state}: {info.counts.succeeded} of {info.counts.added} tasks so far")
        report(job, time.monotonic() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
