"""Every row of the fault table (docs/guarantees.md), some side by side, with one result each.

    python tests/crash/rows.py --streams 3 --rounds 20 --seed 7 OUT
    python tests/crash/rows.py --only kafka --only redis/full OUT

A row is an engine and a fault: all those of redis_rounds.py and
kafka_rounds.py, or those that --only names (an engine, or ENGINE/FAULT). Each is
a run of its program, with servers on ports of its own and a folder of its own,
OUT/work/ENGINE-FAULT, which stays where the row failed. What it printed is in
OUT/ENGINE-FAULT.log; its result is a line of JSON in OUT/rows.jsonl:
  engine, durability, fault, commit, seed, seconds, rounds, strikes (each while
  tasks ran: in_flight is the fewest at one), accepted, lost, doubled, early and
  late (jobs that ended before their last task, or not within a minute after the
  rounds' faults: as doubled, 0 or the row failed), and of a row that failed
  `failed`: why.
A row that passed as many rounds for this commit and seed is not run again, so
that the same command goes on where it was interrupted. The commit is that of
the checkout, with + where a file beside docs/ differs from it; that build/ was
made from it is the caller's to see to.

Exit code 1 if a row failed. An interruption (SIGINT, SIGTERM, SIGHUP) kills
what was started, servers and workers, and ends with 128 + the signal; a SIGKILL
of this program does not reach the workers. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kafka_rounds
import redis_rounds
import rounds
from faults import Fault

HERE = Path(__file__).resolve().parent
ROUND_LIMIT = 900.0  # seconds for a round, which ends itself long before
SUMS = ("strikes", "in_flight", "accepted", "lost", "doubled")
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Row:
    engine: str
    name: str
    fault: Fault[Any]

    @property
    def id(self) -> str:
        return f"{self.engine}/{self.name}"

    @property
    def program(self) -> Path:
        return HERE / f"{self.engine}_rounds.py"


def rows() -> list[Row]:
    """All there are, in the table's order."""
    engines: dict[str, Mapping[str, Fault[Any]]] = {"redis": redis_rounds.FAULTS, "kafka": kafka_rounds.FAULTS}
    return [Row(engine, name, fault) for engine, faults in engines.items() for name, fault in faults.items()]


def results(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of results; one that an interruption cut short is none."""
    for line in file.read_text().splitlines() if file.exists() else []:
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


def commit() -> str:
    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", str(rounds.ROOT), *command], check=True, capture_output=True, text=True).stdout.strip()

    differs = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)docs")
    return git("rev-parse", "--short=10", "HEAD") + ("+" if differs else "")


def descendants(pid: int) -> list[int]:
    """Processes that descend from this one, as far as /proc tells now."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def kill_descendants(pid: int) -> None:
    """SIGKILL to all that descends from a process, until nothing does. Children of ours are reaped."""
    while victims := descendants(pid):
        for victim in victims:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)  # the kernel ends them and hands on their children


class Runner:
    def __init__(self, out: Path, count: int, seed: int, of: str) -> None:
        self.out, self.count, self.seed, self.commit = out, count, seed, of
        self.file = out / "rows.jsonl"
        self.failed: list[str] = []
        self._lock = threading.Lock()
        self._stopped = False

    def has(self, row: Row) -> bool:
        def fits(result: dict[str, Any]) -> bool:
            same = (result["engine"], result["fault"], result["commit"], result["seed"]) == (row.engine, row.name, self.commit, self.seed)
            return same and result["rounds"] >= self.count and "failed" not in result

        return any(map(fits, results(self.file)))

    def stop(self) -> None:
        """From now on no row begins, and none that ends has a result."""
        with self._lock:
            self._stopped = True

    def run(self, row: Row) -> None:
        name = f"{row.engine}-{row.name}"
        work, log = self.out / "work" / name, self.out / f"{name}.log"
        command = [sys.executable, str(row.program), "--fault", row.name, "--rounds", str(self.count), "--seed", str(self.seed)]
        begun = time.monotonic()
        with self._lock:
            if self._stopped:
                return
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            with log.open("wb") as to:
                process = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(work)}, stdin=subprocess.DEVNULL, stdout=to, stderr=to)
        late = ""
        try:
            process.wait(ROUND_LIMIT * self.count)
        except subprocess.TimeoutExpired:
            late = f"not done after {ROUND_LIMIT * self.count:.0f} s"
            process.send_signal(signal.SIGSTOP)  # starts nothing any more
            left = descendants(process.pid)
            for pid in [process.pid, *left]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        result = {
            "engine": row.engine, "durability": row.fault.durability, "fault": row.name, "commit": self.commit, "seed": self.seed,
            "seconds": round(time.monotonic() - begun), **summed(log, row, self.count, late or f"exit code {process.returncode}"),
        }  # fmt: skip
        with self._lock:
            if self._stopped:
                return
            with self.file.open("a") as to:
                to.write(json.dumps(result) + "\n")
            print(json.dumps(result), flush=True)
            if "failed" in result:
                self.failed.append(row.id)
        if "failed" not in result:
            shutil.rmtree(work)


def summed(log: Path, row: Row, count: int, otherwise: str) -> dict[str, Any]:
    """What a row's log comes to; `failed` says why it failed, `otherwise` if the log does not."""
    lines = [line for line in results(log) if "round" in line or "ok" in line]
    passed = [line for line in lines if "gaps" in line]
    sums: dict[str, Any] = {"rounds": len(passed)} | {key: sum(line[key] for line in passed) for key in SUMS}
    sums["in_flight"] = min((line["in_flight"] for line in passed), default=0)
    sums |= {"early": 0, "late": 0}
    if not lines or "ok" not in lines[-1]:
        said = next((line["failed"] for line in lines if "failed" in line), None)
        tail = " | ".join(log.read_text(errors="replace").splitlines()[-3:])
        return sums | {"failed": said or f"{otherwise}: {tail}"}
    if sums["strikes"] != count * row.fault.kills or not sums["in_flight"]:
        return sums | {"failed": f"{sums['strikes']} strikes, not {count * row.fault.kills}, or one that met no task at work"}
    return sums


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--streams", type=int, default=2, help="how many rows at once")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", action="append", default=[], metavar="ENGINE[/FAULT]")
    args = parser.parse_args()
    chosen = [row for row in rows() if not args.only or {row.engine, row.id} & set(args.only)]
    if unknown := set(args.only) - {name for row in rows() for name in (row.engine, row.id)}:
        parser.error(f"no such rows: {', '.join(sorted(unknown))}; there are {', '.join(row.id for row in rows())}")

    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    runner = Runner(out, args.rounds, args.seed, commit())

    def interrupted(number: int, _: object) -> None:
        runner.stop()
        kill_descendants(os.getpid())
        os._exit(128 + number)  # the threads wait for rows that are dead

    # What a row leaves behind when it dies comes to this process.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)

    todo = [row for row in chosen if not runner.has(row)]
    print(json.dumps({"commit": runner.commit, "rows": len(todo), "there": len(chosen) - len(todo)}), flush=True)
    with ThreadPoolExecutor(args.streams) as pool:
        for done in [pool.submit(runner.run, row) for row in todo]:
            done.result()
    kill_descendants(os.getpid())  # of rows that failed
    print(json.dumps({"passed": len(todo) - len(runner.failed), "failed": sorted(runner.failed)}), flush=True)
    return 1 if runner.failed else 0


if __name__ == "__main__":
    rounds.in_venv()
    sys.exit(main())
