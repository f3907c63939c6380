"""Large values are stored once for each job: what a file grows by."""

import sqlite3
from pathlib import Path

from dynatask import App, then

MIB = 1 << 20


def size(folder: Path) -> int:
    """Bytes of the database, with what still lies in its log."""
    return sum(file.stat().st_size for file in folder.glob("jobs.db*") if file.is_file())


def blobs(folder: Path, app: str) -> list[int]:
    """The lengths of the stored blobs."""
    with sqlite3.connect(folder / "jobs.db") as db:
        return [n for (n,) in db.execute(f'SELECT length(v) FROM "{app}:blob"')]


def family(app: App, data: bytes) -> int:
    @app.task
    def leaf(data: bytes) -> int:
        return len(data)

    @app.task
    def root(data: bytes) -> int:
        return sum(child.result() for child in [leaf.spawn(data) for _ in range(200)])

    with app.worker(slots=2):
        return root.start(data).result()


def test_many_children_with_one_large_argument(sqlite_url: str, tmp_path: Path) -> None:
    assert family(App("once", sqlite_url), bytes(MIB)) == 200 * MIB
    assert size(tmp_path) < 40 * MIB  # once for each child: over 200; the log holds what it holds
    assert len(blobs(tmp_path, "once")) == 1


def test_blob_min_is_heard(sqlite_url: str, tmp_path: Path) -> None:
    assert family(App("plain", sqlite_url, blob_min="2KiB"), bytes(1000)) == 200 * 1000
    assert family(App("small", sqlite_url, blob_min=64), bytes(1000)) == 200 * 1000
    assert not blobs(tmp_path, "plain")
    assert len(blobs(tmp_path, "small")) == 1


def test_a_chain_keeps_its_last_arguments_alone(sqlite_url: str, tmp_path: Path) -> None:
    app = App("chain", sqlite_url)

    @app.task
    def step(n: int, data: bytes) -> int:
        return then(step, n - 1, bytes([n]) * MIB) if n else len(data)

    with app.worker(slots=1):
        assert step.start(30, bytes(MIB)).result() == MIB
    assert len(blobs(tmp_path, "chain")) == 1  # the start's
    with sqlite3.connect(tmp_path / "jobs.db") as db:
        pages, free, page = (db.execute(f"PRAGMA {of}").fetchone()[0] for of in ("page_count", "freelist_count", "page_size"))
    assert (pages - free) * page < 4 * MIB
