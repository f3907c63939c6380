"""What a job that stands still looks like, written down before it is lost.

dump() leaves in a folder what a hang is explained by:
  show.json      the job, as `dynatask show --json` reads it; doctor.txt: `dynatask doctor`
  <pid>.txt      each worker: its threads and what they wait for, as the kernel
                 says, and their stacks by gdb and py-spy where these are there
  jobs.db*       sqlite: the file, its log and its bells, copied while all workers are
                 stopped, so that the copy is of one moment

The live file is read by dynatask's own processes only; look into the copy.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def dump(url: str, app: str, job: str, pids: Iterable[int], to: Path) -> None:
    """Writes it all into the folder `to`, which it makes. Takes seconds. What one tool cannot say, the others still do."""
    to.mkdir()
    pids = list(pids)
    where = ["--app", app, "--url", url]
    _run(to / "show.json", ["dynatask", "show", job, "--json", *where])
    _run(to / "doctor.txt", ["dynatask", "doctor", *where])
    for pid in pids:
        look(pid, to / f"{pid}.txt")
    if not url.startswith("sqlite:"):
        return
    db = Path(url.removeprefix("sqlite:"))
    for pid in pids:
        _signal(pid, signal.SIGSTOP)
    try:
        for file in db.parent.glob(db.name + "*"):
            if file.is_file():
                shutil.copy(file, to / file.name)
    finally:
        for pid in pids:
            _signal(pid, signal.SIGCONT)


def look(pid: int, to: Path) -> None:
    """Writes what the threads of a process wait for into the file `to`."""
    to.write_text(_threads(pid))
    _run(to, ["gdb", "-nx", "-batch", "-p", str(pid), "-ex", "thread apply all bt"])
    _run(to, ["py-spy", "dump", "--pid", str(pid)])


def _run(to: Path, command: list[str]) -> None:
    """Appends what a command says; one that is not installed says nothing."""
    if shutil.which(command[0]) is None:
        return
    with to.open("ab") as out:
        out.write(f"$ {' '.join(command)}\n".encode() if to.suffix == ".txt" else b"")
        out.flush()
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, timeout=60)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _threads(pid: int) -> str:
    """Name, state, and the kernel function and system call that each thread is in."""
    lines: list[str] = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*"), key=lambda p: int(p.name)):
        parts = [task.name]
        for what in ("comm", "wchan", "syscall", "stat"):
            with suppress(OSError):  # it ended, or may not be read
                parts.append(f"{what}={(task / what).read_text().strip()}")
        lines.append("  ".join(parts))
    return "\n".join(lines or [f"{pid} has ended"]) + "\n"
