"""What `pip install .` leaves behind is enough for a C program and a plugin."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dynatask

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(dynatask.__file__).parent


def pkg_config(*what: str, folder: Path = PACKAGE) -> list[str]:
    run = subprocess.run(
        ["pkg-config", *what, "dynatask"],
        env=os.environ | {"PKG_CONFIG_PATH": str(folder / "lib/pkgconfig")},
        capture_output=True, text=True, check=True,
    )
    return run.stdout.split()


def build_and_run(tmp_path: Path, folder: Path) -> str:
    program = tmp_path / "embed"
    subprocess.run(
        ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", str(ROOT / "examples/embed.c"), "-o", str(program),
         *pkg_config("--cflags", "--libs", folder=folder)],
        check=True,
    )
    return subprocess.run([program], capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_c_program_compiles_against_the_installed_tree(tmp_path: Path) -> None:
    assert build_and_run(tmp_path, PACKAGE)


def test_the_installed_tree_may_be_moved(tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(PACKAGE, moved)
    assert build_and_run(tmp_path, moved) == build_and_run(tmp_path, PACKAGE)


def test_the_header_is_cplusplus_clean(tmp_path: Path) -> None:
    source = tmp_path / "main.cc"
    source.write_text('#include <dynatask.h>\nint main() { return dtask_abi() == DTASK_ABI ? 0 : 1; }\n')
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        # The header must at least parse as C++, which the C driver of gcc can do without a C++ library.
        compiler = "cc"
    subprocess.run(
        [compiler, "-x", "c++", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", *pkg_config("--cflags"), str(source)],
        check=True,
    )


def test_the_library_exports_the_header_and_nothing_else() -> None:
    names = subprocess.run(
        ["nm", "-D", "--defined-only", str(PACKAGE / "lib/libdynatask.so")], capture_output=True, text=True, check=True
    ).stdout.split()[2::3]
    assert names and all(name.startswith("dtask_") for name in names), names


def test_the_host_runs_from_the_console_script() -> None:
    script = Path(sys.executable).parent / "dynatask-worker"
    run = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and importlib.metadata.version("dynatask") in run.stdout
