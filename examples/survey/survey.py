"""survey: files, lines, words and bytes of a folder, and one hash of it all.

    python examples/survey/survey.py DIR        # everything in this process
    python examples/survey/demo.py DIR          # C and Python in two worker processes

A Python task walks one folder: it spawns itself for each subfolder and the C
handler `count_chunk` (survey.c) for each chunk of 1 MiB of each regular file,
waits for both, and returns the sums. So the tree of tasks is the tree of
folders, and the sums climb it.

Symlinks are not followed. What cannot be read, or vanishes meanwhile, is
counted and named, and fails nothing. The hash is the same for equal content
under equal relative paths, in whatever order the tasks ran.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dynatask import App, Job

CHUNK = 1 << 20
NAMES = 20  # of what cannot be read: so many are named, all are counted
ROOT = Path(__file__).resolve().parents[2]
PLUGIN = Path(os.environ.get("DTASK_BUILD", ROOT / "build")) / "examples/survey/survey.so"

app = App("survey")


class Counts(NamedTuple):
    """What count_chunk returns; error is empty, or why the chunk could not be read."""

    lines: int
    words: int
    bytes: int
    hash: int
    error: str


@dataclass
class Totals:
    """Of one folder and all below it."""

    files: int = 0
    lines: int = 0
    words: int = 0
    bytes: int = 0
    hash: int = 0
    chunks: int = 0  # C tasks
    folders: int = 1  # Python tasks
    unreadable: int = 0
    names: list[str] = field(default_factory=list[str])

    def add(self, other: Totals) -> None:
        self.files += other.files
        self.lines += other.lines
        self.words += other.words
        self.bytes += other.bytes
        self.hash = (self.hash + other.hash) % 2**64
        self.chunks += other.chunks
        self.folders += other.folders
        self.unreadable += other.unreadable
        self.names = (self.names + other.names)[:NAMES]

    def add_chunk(self, counts: Counts) -> None:
        self.lines += counts.lines
        self.words += counts.words
        self.bytes += counts.bytes
        self.hash = (self.hash + counts.hash) % 2**64
        self.chunks += 1

    def miss(self, path: bytes, why: str) -> None:
        self.unreadable += 1
        if len(self.names) < NAMES:
            self.names.append(f"{path.decode(errors='backslashreplace')}: {why}")


@app.extern()
def count_chunk(root: bytes, path: bytes, offset: int, length: int) -> Counts: ...


def entries(root: bytes, path: bytes, totals: Totals) -> tuple[list[bytes], list[tuple[bytes, int]]]:
    """The subfolders, and the regular files with their sizes, of root/path; sorted, so that a re-run makes the same calls."""
    folders: list[bytes] = []
    files: list[tuple[bytes, int]] = []
    try:
        with os.scandir(os.path.join(root, path)) as listed:
            for entry in sorted(listed, key=lambda e: e.name):
                inner = os.path.join(path, entry.name)
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError as error:
                    totals.miss(inner, error.strerror or "cannot be read")
                    continue
                if stat.S_ISDIR(status.st_mode):
                    folders.append(inner)
                elif stat.S_ISREG(status.st_mode):
                    files.append((inner, status.st_size))
    except OSError as error:
        totals.miss(path, error.strerror or "cannot be read")
    return folders, files


@app.task
def walk(root: bytes, path: bytes) -> Totals:
    totals = Totals()
    folders, files = entries(root, path, totals)
    # An empty file is one chunk too: its path counts in the hash.
    chunks = [
        (root, name, offset, min(CHUNK, size - offset)) for name, size in files for offset in range(0, max(size, 1), CHUNK)
    ]
    below = walk.starmap((root, folder) for folder in folders)
    counted = count_chunk.starmap(chunks)

    missed = b""
    for (_, name, _, _), counts in zip(chunks, counted.result(), strict=True):
        totals.add_chunk(counts)
        if counts.error and name != missed:  # a file's chunks stand together: it is named once
            totals.miss(name, counts.error)
            missed = name
    totals.files = len(files)
    for part in below.result():
        totals.add(part)
    return totals


def start(folder: str) -> Job[Totals]:
    return walk.start(os.fsencode(os.path.abspath(folder)), b"")


def last_line(job: Job[Totals], totals: Totals, seconds: float) -> str:
    return (
        f"files={totals.files} lines={totals.lines} words={totals.words} bytes={totals.bytes} "
        f"tasks={job.info().counts.added} c_tasks={totals.chunks} python_tasks={totals.folders} seconds={seconds:.2f}"
    )


def report(job: Job[Totals], totals: Totals, seconds: float) -> None:
    """The end of a survey, for people; its last line also for programs."""
    for name in totals.names:
        print(f"cannot be read: {name}")
    if totals.unreadable > len(totals.names):
        print(f"cannot be read: {totals.unreadable - len(totals.names)} more")
    left = job.info().counts.added - totals.chunks - totals.folders
    if left:
        print(f"{left} tasks were left by attempts that found the folder otherwise; they count in no sum")
    print(f"hash={totals.hash:016x}")
    print(last_line(job, totals, seconds))


def main() -> int:
    if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
        print("usage: survey.py DIR   (an existing folder)", file=sys.stderr)
        return 2
    began = time.monotonic()
    with app.worker(plugins=[str(PLUGIN)]):
        job = start(sys.argv[1])
        for info in job:
            print(f"{info.state}: {info.counts.succeeded} of {info.counts.added} tasks so far")
        report(job, job.result(), time.monotonic() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
