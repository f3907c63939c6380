"""Each example by its one command, against an answer that another program computed."""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib.util
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
BUILD = Path(os.environ.get("DTASK_BUILD", ROOT / "build"))
HTML = Path("/usr/share/doc/python3.11/html")


@pytest.fixture
def run(tmp_path: Path):
    """Runs an example in an empty folder; its standard output."""

    def go(program: str, *words: object) -> str:
        env = os.environ | {"DYNATASK_URL": f"sqlite:{tmp_path}/jobs.db", "DTASK_BUILD": str(BUILD), "NO_COLOR": "1"}
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / program), *map(str, words)], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return go


def load(program: str) -> ModuleType:
    path = EXAMPLES / program
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def fields(line: str) -> dict[str, float]:
    return {name: float(value) for name, value in (word.split("=") for word in line.split())}


# ---- survey -----------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that are hard to count right."""
    top = tmp_path / "survey me"
    (top / "a" / "b" / "c").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "nothing").write_bytes(b"")
    (top / "no line end").write_bytes(b"one two")
    (top / "blanks").write_bytes(b" \t\n\r\v\f")
    (top / "no blanks of ours").write_bytes("a\u00a0b\u2003c\x1cd\x85e".encode())
    (top / os.fsdecode(b"name \xff\xfe")).write_bytes(b"three words here\n")
    # One word over two borders, one that ends at a border, one that begins there.
    (top / "a" / "long word").write_bytes(b"x" * (2 << 20) + b"yy z\n")
    (top / "a" / "at the border").write_bytes(b"w" * (1 << 20) + b" v")
    (top / "a" / "b" / "after the border").write_bytes(b"w" * ((1 << 20) - 1) + b" v\n")
    (top / "a" / "b" / "c" / "binary").write_bytes(bytes(range(256)) * 5000)
    (top / "link").symlink_to(top / "no line end")
    (top / "a" / "loop").symlink_to(top)
    os.mkfifo(top / "pipe")
    return top


def check_survey(line: str, folder: Path) -> dict[str, float]:
    got = fields(line)
    expected = load("survey/oracle.py").answer(str(folder))
    assert {name: got[name] for name in expected} == expected
    assert got["tasks"] == got["c_tasks"] + got["python_tasks"]
    folders = subprocess.run(["find", folder, "-type", "d"], capture_output=True, check=True).stdout.count(b"\n")
    assert got["python_tasks"] == folders
    return got


def test_survey_counts_as_find_and_wc_do(run, folder: Path) -> None:
    out = run("survey/survey.py", folder).splitlines()
    got = check_survey(out[-1], folder)
    assert got["files"] == 9
    # Chunks: 3 + 2 + 2 + 2 of the large ones, one of each other.
    assert got["c_tasks"] == 3 + 2 + 2 + 2 + 5


def test_survey_hash_is_of_content_and_place_not_of_order(run, folder: Path, tmp_path: Path) -> None:
    def hash_of(top: Path) -> str:
        return next(line for line in run("survey/survey.py", top).splitlines() if line.startswith("hash="))

    first = hash_of(folder)
    moved = folder.rename(tmp_path / "elsewhere")
    assert hash_of(moved) == first
    large = moved / "a" / "long word"
    large.write_bytes(large.read_bytes().replace(b"yy z", b"yz y"))
    changed = hash_of(moved)
    assert changed != first
    (moved / "nothing").rename(moved / "nothing else")
    assert hash_of(moved) != changed


def test_survey_names_what_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DTASK_BUILD", str(BUILD))
    monkeypatch.setenv("DYNATASK_URL", f"sqlite:{tmp_path}/jobs.db")
    survey = load("survey/survey.py")
    listed = survey.entries

    def gone_since(root: bytes, path: bytes, totals: object):
        folders, files = listed(root, path, totals)
        if path == b"":
            files = [*files, (b"vanished", 3 << 20), (b"link", 5), (b"pipe", 1)]
            folders = [*folders, b"gone"]
        return folders, files

    monkeypatch.setattr(survey, "entries", gone_since)
    with survey.app.worker(plugins=[str(BUILD / "examples/survey/survey.so")]):
        totals = survey.start(str(folder)).result()
    # A folder, a file, a symlink, a pipe: each once, though a file has several chunks.
    assert totals.unreadable == 4
    assert sorted(name.split(":")[0] for name in totals.names) == ["gone", "link", "pipe", "vanished"]
    assert totals.bytes == load("survey/oracle.py").answer(str(folder))["bytes"]


def test_survey_demo_has_two_worker_processes(run, folder: Path) -> None:
    out = run("survey/demo.py", folder, "--db", "demo.db").splitlines()
    check_survey(out[-1], folder)
    assert any(line.startswith("C worker: pid ") for line in out)
    assert any(line.startswith("Python worker: pid ") for line in out)
    assert any(line.startswith("workers that died: C 0, Python 0; lost attempts: 0; ") for line in out)


# ---- crawl ------------------------------------------------------------------------
class Quiet(http.server.SimpleHTTPRequestHandler):
    asked: Counter[str]

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, Counter[str]]]:
    asked: Counter[str] = Counter()
    handler = type("Handler", (Quiet,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", asked
        finally:
            server.shutdown()
            thread.join()


def check_crawl(run, site: Path, out: Path) -> Counter[str]:
    with served(site) as (url, asked):
        printed = run("crawl/crawl.py", url, out)
        crawled = asked.copy()
        pages = load("crawl/oracle.py").crawl(url)
    expected = {page.removeprefix(url.rstrip("/")).replace("/", "%2F"): body for page, body in pages.items()}
    found = {path.name: path.read_bytes() for path in out.iterdir()}
    assert found.keys() == expected.keys()
    assert found == expected
    assert fields(printed.splitlines()[-1])["pages"] == len(expected)
    return crawled


def test_crawl_small_site_with_odd_links(run, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    (site / "index.html").write_text(
        """<!DOCTYPE html><A HREF='one.html'>1</A> <a class=x href=two.html>2</a> <a href="one.html#part">1</a>
        <!-- <a href="comment.html">no</a> --> <script>"<a href='script.html'>"</script> <a name=x>no</a>
        <a href="sub/?a=1&amp;b=2">q</a> <a href="missing.html">404</a> <a href="mailto:x@y">m</a> <a href="http://elsewhere/">e</a>
        <a href="sub">redirect</a> <a href="&#111;ne.html">1</a> <a href="text.txt">text</a> <a href=""" + '"index.html">self</a>'
    )  # fmt: skip
    (site / "one.html").write_text('<a href="/">up</a><a href="//[bad">bad</a><style>a{} <a href="style.html"></style>')
    (site / "two.html").write_text('<a href="./sub/../three.html" href="other.html">3</a> < a href="no.html"> <a href')
    (site / "three.html").write_text("<a\n\thref = 'one.html'\n>1</a>")
    (site / "sub" / "index.html").write_text('<a href="../index.html">up</a>')
    (site / "text.txt").write_text('<a href="from-text.html">no</a>')
    asked = check_crawl(run, site, tmp_path / "out")
    assert "/one.html" in asked and "/comment.html" not in asked and "/from-text.html" not in asked
    assert set(asked.values()) == {1}


@pytest.mark.skipif(not HTML.is_dir(), reason="python3-doc is not installed")
def test_crawl_python_documentation(run, tmp_path: Path) -> None:
    asked = check_crawl(run, HTML, tmp_path / "out")
    assert len(asked) > 500
    print([page for page, n in asked.items() if n > 1])
    assert set(asked.values()) == {1}, "a page was fetched twice"


# ---- fib, render --------------------------------------------------------------------
@pytest.mark.parametrize("language", [[], ["--c"]], ids=["python", "c"])
def test_fib(run, language: list[str]) -> None:
    a, b, calls = 0, 1, {0: 1, 1: 1}
    for n in range(2, 13):
        calls[n] = 1 + calls[n - 1] + calls[n - 2]
    for _ in range(12):
        a, b = b, a + b
    assert run("fib/fib.py", 12, *language) == f"fib(12) = {a}, by {calls[12]} tasks on one slot\n"


def unpng(data: bytes) -> tuple[int, bytes, bytes]:
    """Side, pixels, palette; checks each chunk's sum."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(data):
        (n,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + n]
        assert struct.unpack(">I", data[at + 8 + n : at + 12 + n]) == (zlib.crc32(kind + body),)
        chunks[kind] = body
        at += 12 + n
    side, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (side, depth, colour) == (height, 8, 3)
    rows = zlib.decompress(chunks[b"IDAT"])
    assert set(rows[:: side + 1]) == {0}
    return side, b"".join(rows[at + 1 : at + 1 + side] for at in range(0, len(rows), side + 1)), chunks[b"PLTE"]


def test_render_draws_what_one_loop_draws(run, tmp_path: Path) -> None:
    printed = run("render/render.py", "out.png", 128)
    side, pixels, palette = unpng((tmp_path / "out.png").read_bytes())
    assert side == 128
    assert pixels == load("render/oracle.py").pixels(128, 200)
    assert len(palette) == 3 * 201 and palette.endswith(b"\0\0\0")
    # 128 -> 4 of 64 -> 16 of 32, which are drawn; and the root.
    assert printed.rstrip().endswith(f"by {1 + 1 + 4 + 16} tasks")


@pytest.mark.parametrize("program", ["survey/survey.py", "survey/demo.py", "crawl/crawl.py", "fib/fib.py", "render/render.py", "fleet/words.py", "fleet/fleet.py"])
def test_wrong_words_are_a_usage_error(program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / program, "no such", "thing", "at all"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "usage" in done.stderr
    assert list(tmp_path.iterdir()) == []
