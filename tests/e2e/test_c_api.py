"""The C library from outside: each case of c_api.c on each engine."""

import os
import re
import subprocess
from pathlib import Path

import pytest

import dynatask

SOURCE = Path(__file__).parent / "c_api.c"
PACKAGE = Path(dynatask.__file__).parent
CASES = re.findall(r'\{"(\w+)", case_', SOURCE.read_text())


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("c_api") / "c_api"
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "dynatask"],
        env=os.environ | {"PKG_CONFIG_PATH": str(PACKAGE / "lib/pkgconfig")}, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    subprocess.run(
        ["cc", "-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", str(SOURCE), "-o", str(out), "-pthread"]
        + [*flags, f"-Wl,-rpath,{PACKAGE}/lib"],
        check=True,
    )
    return out


@pytest.mark.parametrize("case", CASES)
def test_case(program: Path, url: str, case: str) -> None:
    run = subprocess.run([program, case, url], capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    assert run.stdout == run.stderr == ""  # never prints
