"""Crash rounds: a tree of C and Python tasks that survives the killing of its workers.

    python tests/crash/rounds.py --rounds 50 --tasks 20000 --kills 5 --seed 1

Each round has a fresh SQLite file, two Python and two C worker processes, and
a job whose tree has exactly --tasks tasks: C and Python ones by turns, that
wait for their children in every way there is, or do not wait. Each task notes
its path in one append-only log. At --kills moments (random, but before the
end) one worker dies by SIGKILL and is started again.

After each round it is checked that
  - the job ended once: state succeeded, its result the number of tasks, one
    callback job, whose every run saw the final counts;
  - the counts are exact: added = succeeded = claimed = --tasks, all else 0;
  - no task is lost: each path of the tree is in the log at least once, and
    no path that is not of the tree;
  - each kill cost less than 2 s of progress: the time from it until the next
    outcome is counted.
A worker that ends by itself, or 60 s without progress, is a failure at once,
and so is one that does not drain in 60 s; of a standstill stall.py first
writes down what it sees.
Prints a line of JSON for each round; the first line says the seed. Exit code
1 at the first round that fails, whose files are kept. Any Python runs it: the
package is taken from this checkout's .venv (script/setup makes it) where
there is one.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import stall

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
INCLUDE = ROOT / "core" / "include"
VENV = ROOT / ".venv"
sys.path.insert(0, str(HERE))

GAP = 2.0  # seconds of progress that a kill may cost
STALL = 60.0  # seconds without progress, after which nothing more is hoped for
LIMIT = 300.0  # seconds for a round


class Lost(AssertionError):
    pass


class Worker:
    """A worker process that is started again when it was killed."""

    def __init__(self, language: str, command: list[str], env: dict[str, str], log: Path) -> None:
        self.language, self.command, self.env, self.log = language, command, env, log
        self.start()

    def start(self) -> None:
        # Behind servers that come back and whoever strikes, which else wait for a processor while trees go on without end.
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(["nice", "-n", "10", *self.command], env=self.env, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def _drains(self) -> bool:
        """Whether it has got so far that SIGTERM is its to handle."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

    def end(self) -> int:
        until = time.monotonic() + 30
        while self.process.poll() is None and not self._drains() and time.monotonic() < until:
            time.sleep(0.01)  # it is still importing: a signal now would kill any program
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            stall.look(self.process.pid, self.log.parent / f"{self.process.pid}.txt")
            self.kill()
            return -9


def fleet(plugin: Path, env: dict[str, str], log: Path, pairs: int = 2) -> list[Worker]:
    """C and Python workers, so many of each."""
    import dynatask

    host = Path(dynatask.__file__ or "").parent / "bin" / "dynatask-worker"
    c = [str(host), "--app", "rounds", "--plugin", str(plugin), "--slots", "2"]
    python = [sys.executable, str(HERE / "tree.py")]
    return [Worker(lang, cmd, env, log) for lang, cmd in [("c", c), ("python", python)] * pairs]


def expected(path: str, n: int) -> list[str]:
    """All paths of the tree."""
    from tree import parts

    out, stack = [], [(path, n)]
    while stack:
        at, size = stack.pop()
        out.append(at)
        stack += [(p, m) for p, m, _ in parts(at, size)]
    return out


def one_round(number: int, rng: random.Random, args: argparse.Namespace, folder: Path, plugin: Path) -> dict[str, Any]:
    effects = folder / "effects"
    effects.touch()
    env = os.environ | {"DYNATASK_URL": f"sqlite:{folder}/jobs.db", "EFFECTS": str(effects)}
    os.environ.update(env)
    import tree

    app = tree.App("rounds", env["DYNATASK_URL"])

    @app.extern("p_node")
    def p_node(path: str, n: int) -> int: ...

    begun = time.monotonic()
    workers = fleet(plugin, env, folder / "workers.log")
    try:
        job = p_node.using(id=f"round-{number}").start("r", args.tasks)
        moments = sorted(rng.randrange(args.tasks // 50, args.tasks * 19 // 20) for _ in range(args.kills))
        gaps: list[float] = []
        killed: Counter[str] = Counter()
        clock = Progress(workers)
        while (info := job.info()).state == "running":
            if clock.stands(info.counts) or clock.now - begun > LIMIT:
                stall.dump(env["DYNATASK_URL"], "rounds", job.id, [w.process.pid for w in workers], folder / "stall")
                raise Lost(f"no progress since {clock.now - clock.since:.0f} s, begun {clock.now - begun:.0f} s ago: {info.counts}")
            if moments and info.counts.claimed >= moments[0]:
                moments.pop(0)
                victim = rng.choice(workers)
                victim.kill()
                at, before = time.monotonic(), job.info().counts
                victim.start()
                killed[victim.language] += 1
                while (now := job.info()).state == "running" and progress(now.counts) == progress(before):
                    if clock.stands(now.counts):
                        break
                    time.sleep(0.001)
                gaps.append(time.monotonic() - at)
            else:
                time.sleep(0.002)
        result = job.result()
        seconds = time.monotonic() - begun
        check(job, app, result, args.tasks, effects, number)
    finally:
        codes = [w.end() for w in workers]
    if any(codes):
        raise Lost(f"workers drained with exit codes {codes}")
    lines = noted(effects)
    if max(gaps, default=0) >= GAP:
        raise Lost(f"a kill cost {max(gaps):.2f} s of progress")
    runs = sum(not line.startswith("ended") for line in lines)
    return {
        "round": number, "seconds": round(seconds, 2), "killed": dict(killed), "gaps": [round(g, 3) for g in gaps],
        "tasks": args.tasks, "runs": runs, "ended": len(lines) - runs,
    }  # fmt: skip


def progress(counts: Any) -> tuple[int, int]:
    """What grows as a job goes on; of no job (None) nothing does."""
    return (0, 0) if counts is None else (counts.claimed, counts.succeeded + counts.closing + counts.parked)


class Progress:
    """Since when a job has stood still. A worker that ended by itself is Lost."""

    def __init__(self, workers: list[Worker]) -> None:
        self._workers = workers
        self._at: tuple[int, int] | None = None
        self.now = self.since = time.monotonic()

    def stands(self, counts: Any) -> bool:
        """Whether it has for too long. Looks at the clock: `now`."""
        self.now = time.monotonic()
        at = progress(counts)
        if at != self._at:
            self._at, self.since = at, self.now
        for w in self._workers:
            if (code := w.process.poll()) is not None:
                raise Lost(f"a {w.language} worker ended by itself with exit code {code}; its log is {w.log}")
        return self.now - self.since > STALL


def noted(effects: Path) -> list[str]:
    """The whole lines of the log; see note() in tree.py."""
    return [line[:-1] for line in effects.read_text().splitlines() if line.endswith(";")]


def check(job: Any, app: Any, result: int, tasks: int, effects: Path, number: int) -> None:
    info = job.info()
    if (result, info.state) != (tasks, "succeeded"):
        raise Lost(f"result {result}, state {info.state}")
    want = dict.fromkeys(info.counts._fields, 0) | {"added": tasks, "claimed": tasks, "succeeded": tasks}
    if info.counts._asdict() != want:
        raise Lost(f"counts {info.counts}")
    callback = app.extern("ended")(lambda info: None).job(f"{job.id}!ended")
    callback.result(timeout=60)
    lines = noted(effects)
    ends = {line for line in lines if line.startswith("ended")}
    if ends != {f"ended {job.id} succeeded {tasks} {tasks}"}:
        raise Lost(f"callbacks saw {ends}")
    seen = Counter(line.split()[0] for line in lines if not line.startswith("ended"))
    paths = expected("r", tasks)
    missing, strange = set(paths) - set(seen), set(seen) - set(paths)
    if missing or strange or len(paths) != tasks:
        raise Lost(f"round {number}: {len(missing)} paths without effect {sorted(missing)[:3]}, strange {sorted(strange)[:3]}")
    if [j.id for j in app.jobs() if j.id.startswith(job.id)] not in ([f"{job.id}!ended", job.id], [job.id, f"{job.id}!ended"]):
        raise Lost(f"jobs {[j.id for j in app.jobs()]}")


def compiled(folder: Path) -> Path:
    """The C half of the tree, made in this folder."""
    plugin = folder / "tree.so"
    subprocess.run(
        ["cc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O2", "-fPIC", "-shared", f"-I{INCLUDE}"]
        + [str(HERE / "tree.c"), "-o", str(plugin)],
        check=True,
    )
    return plugin


def in_venv() -> None:
    """Goes on under this checkout's .venv, where there is one."""
    python = VENV / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(python, [str(python), *sys.argv])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    args = parser.parse_args(argv)
    print(json.dumps({"seed": args.seed, "rounds": args.rounds, "tasks": args.tasks, "kills": args.kills}), flush=True)
    top = Path(tempfile.mkdtemp(prefix="dynatask-rounds-"))
    plugin = compiled(top)
    all_gaps: list[float] = []
    for number in range(1, args.rounds + 1):
        folder = top / f"round-{number}"
        folder.mkdir()
        try:
            line = one_round(number, random.Random(f"{args.seed}/{number}"), args, folder, plugin)
        except Exception as e:
            print(json.dumps({"round": number, "failed": f"{type(e).__name__}: {e}", "files": str(folder)}), flush=True)
            return 1
        all_gaps += line["gaps"]
        print(json.dumps(line), flush=True)
        shutil.rmtree(folder)
    shutil.rmtree(top)
    worst = round(max(all_gaps, default=0.0), 3)
    print(json.dumps({"ok": args.rounds, "kills": len(all_gaps), "worst_gap_seconds": worst, "seed": args.seed}), flush=True)
    return 0


if __name__ == "__main__":
    in_venv()
    sys.exit(main())
