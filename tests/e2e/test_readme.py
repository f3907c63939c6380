"""What the README shows is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from test_install import PACKAGE, pkg_config

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def block(language: str, holds: str) -> str:
    found = [text for kind, text in BLOCKS if kind == language and holds in text]
    assert len(found) == 1, f"{len(found)} blocks of {language} hold {holds}"
    return found[0]


def run(folder: Path, text: str) -> str:
    (folder / "readme.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "readme.py"], cwd=folder, capture_output=True, text=True, timeout=120,
        env={k: v for k, v in os.environ.items() if not k.startswith("DYNATASK_")},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_program(tmp_path: Path) -> None:
    assert run(tmp_path, block("python", "def fib")).strip() == "144"
    assert (tmp_path / "jobs.db").exists()


def test_the_plugin_beside_python(tmp_path: Path) -> None:
    (tmp_path / "textkit.c").write_text(block("c", "DTASK_PLUGIN"))
    subprocess.run(
        ["cc", "-shared", "-fPIC", *pkg_config("--cflags", folder=PACKAGE), "textkit.c", "-o", "textkit.so"],
        cwd=tmp_path, check=True,
    )
    words = "Call me Ishmael. Some years ago\n\nnever mind how  long\n"
    (tmp_path / "book.txt").write_text(words)
    head = 'from pathlib import Path\nfrom dynatask import App\napp = App("words")\n'
    assert run(tmp_path, head + block("python", "def wordcount")).strip() == str(len(words.split()))
