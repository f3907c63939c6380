"""Crash rounds on real Redis servers: one fault, struck again and again while jobs of known size run.

    python tests/crash/redis_rounds.py --fault kill-always --rounds 20 --seed 1

The faults are below, in FAULTS, each with what it does. Each round has a fresh
server, two C and two Python worker processes (lease: LEASE seconds), a job
whose tree has exactly --tasks tasks (tree.py, tree.c), somebody who waits for
its result all the time, and a thread that starts small jobs (trees of SMALL
tasks) all the while, faults included. A job counts as accepted once its start
has returned. At --kills moments, when a task of the tree is just running, the
fault strikes.

After each round it is checked that
  - no accepted job is lost, where the fault may not lose any. Where it may,
    the lost are counted; who waits for one is told NotFound; and when the tree
    is among them a new one is started with the same workers;
  - every other accepted job ended once: succeeded, its result and its counts
    exact, one callback job, each run of which saw the final counts;
  - each path of those trees is in the log of effects, and no other;
  - no attempt was charged, where nothing but the server was away: each run
    says in the log which attempt it is;
  - there are no jobs but these, and no worker ended by itself or does not drain.
60 s without progress are a failure at once, and stall.py writes down what it
sees. Prints a line of JSON for each round; the first line says the seed, the
last sums up: strikes, jobs accepted, lost, doubled (ended otherwise than
once; 0, or the round failed). Exit code 1 at the first round that fails, whose
files are kept, with the server's log and data. Any Python runs it, as rounds.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import rounds
import stall
from rounds import LIMIT, Lost, Progress, Worker

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from servers import Guard, Redis, RedisPair  # noqa: E402

LEASE = 1.5  # seconds
SMALL = 3  # tasks of a small job


class Scene:
    """What a fault strikes at: the server that is master now, the workers, the tree's counts, chance."""

    def __init__(self, guard: Guard, fault: Fault, rng: random.Random) -> None:
        self.pair = RedisPair(guard) if fault.pair else None
        self.alone = None if fault.pair else Redis(guard, aof=fault.aof)
        self.rng = rng
        self.workers: list[Worker] = []
        self.counts: Callable[[], Any] = lambda: None

    @property
    def server(self) -> Redis:
        server = self.pair.master if self.pair else self.alone
        assert server
        return server

    @property
    def url(self) -> str:
        return self.pair.url if self.pair else self.server.url

    def errors(self, name: str) -> int:
        """How many errors of this name the server has answered."""
        return int(self.server.info("errorstats").get(f"errorstat_{name}", "count=0").partition("=")[2])

    def some(self, language: str) -> list[Worker]:
        return [w for w in self.workers if w.language == language]


def last(seconds: float) -> None:
    """A fault's length."""
    threading.Event().wait(seconds)


def kill_server(scene: Scene) -> None:
    scene.server.kill()
    last(scene.rng.choice([0, scene.rng.uniform(0, 2 * LEASE)]))
    scene.server.start()


def fail_over(scene: Scene) -> None:
    pair = scene.pair
    assert pair
    if pair.replica("ROLE")[0] != b"slave":
        raise Lost("the Sentinel failed over by itself: this round says nothing")
    pair.cut()
    before, stale = scene.counts().claimed, int(pair.replica.info("replication")["slave_repl_offset"])
    enough = scene.rng.randrange(1, 200)
    pair.master.until(lambda: (now := scene.counts()).claimed >= before + enough or not now.running, "work that the replica misses")
    if int(pair.master.info("replication")["master_repl_offset"]) <= stale:
        raise Lost("the replica misses nothing")
    pair.failover()
    pair.heal()


def freeze_server(scene: Scene) -> None:
    scene.server.pause()
    last(LEASE * scene.rng.uniform(1.2, 3))
    scene.server.resume()


def sleep_server(scene: Scene) -> None:
    with scene.server.client(timeout=60) as client:
        client("DEBUG", "SLEEP", round(LEASE * scene.rng.uniform(1.2, 3), 2))


def fill_server(scene: Scene) -> None:
    before = scene.errors("OOM")
    scene.server("CONFIG", "SET", "maxmemory", 1)
    scene.server.until(lambda: scene.errors("OOM") > before, "a call refused for want of memory")
    last(scene.rng.uniform(0, 2 * LEASE))
    scene.server("CONFIG", "SET", "maxmemory", 0)


def flush_library(scene: Scene) -> None:
    scene.server("FUNCTION", "FLUSH")
    scene.server.until(lambda: scene.server("FUNCTION", "LIST"), "the library loaded again")


def cut_clients(scene: Scene) -> None:
    with scene.server.control() as control:
        control("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        control("CLIENT", "KILL", "TYPE", "pubsub")


def kill_workers(scene: Scene, victims: list[Worker]) -> None:
    for victim in victims:
        victim.kill()
    for victim in victims:
        victim.start()


def freeze_worker(scene: Scene) -> None:
    victim = scene.rng.choice(scene.workers)
    victim.pause()
    last(3 * LEASE)
    victim.resume()


@dataclass
class Fault:
    """strike: does it, and returns when it is over. lossy: accepted jobs may be lost. charges: attempts may be charged. kills: strikes of a
    round, unless --kills says it; one where the rest of the tree ends meanwhile."""

    about: str
    strike: Callable[[Scene], None]
    aof: Literal["none", "always", "everysec"] = "none"
    pair: bool = False
    lossy: bool = False
    charges: bool = False
    kills: int = 3


FAULTS = {
    "kill-always": Fault("SIGKILL of the server and restart, AOF synced always", kill_server, aof="always"),
    "kill-everysec": Fault("SIGKILL of the server and restart, AOF synced each second", kill_server, aof="everysec", lossy=True),
    "kill-none": Fault("SIGKILL of the server and restart, nothing saved", kill_server, lossy=True),
    "failover-stale": Fault("SIGKILL of the master, failover to a replica that was cut off", fail_over, pair=True, lossy=True, kills=1),
    "freeze-server": Fault("SIGSTOP of the server for 1.2 to 3 leases", freeze_server),
    "sleep-server": Fault("DEBUG SLEEP for 1.2 to 3 leases", sleep_server),
    "full": Fault("maxmemory reached, for up to 2 leases, then raised", fill_server, kills=1),
    "library-flushed": Fault("FUNCTION FLUSH", flush_library),
    "cut-clients": Fault("all connections cut by the server", cut_clients),
    "kill-c": Fault("SIGKILL of a C worker", lambda s: kill_workers(s, [s.rng.choice(s.some("c"))]), charges=True),
    "kill-python": Fault("SIGKILL of a Python worker", lambda s: kill_workers(s, [s.rng.choice(s.some("python"))]), charges=True),
    "kill-all": Fault("SIGKILL of all workers at once", lambda s: kill_workers(s, s.workers), charges=True),
    "freeze-worker": Fault("SIGSTOP of a worker for 3 leases", freeze_worker, charges=True, kills=1),
}


class Starter(threading.Thread):
    """Starts small jobs until told to stop. `accepted`: their numbers."""

    def __init__(self, start: Callable[[int], Any]) -> None:
        super().__init__(name="starter", daemon=True)
        self._start_one, self._over = start, threading.Event()
        self.accepted: list[int] = []
        self.refused = 0
        self.error: Exception | None = None

    def run(self) -> None:
        from dynatask import EngineError

        number = 0
        while not self._over.is_set() and not self.error:
            try:
                self._start_one(number)
            except EngineError:  # not known to be accepted: asked again under the same id
                self.refused += 1
                self._over.wait(0.05)
            except Exception as error:
                self.error = error
            else:
                self.accepted.append(number)
                number += 1
                self._over.wait(0.01)  # its pace; nobody relies on it

    def stop(self) -> None:
        self._over.set()
        self.join(LIMIT)
        if self.error or self.is_alive():
            raise Lost(f"a start ended with {self.error!r}" if self.error else "a start hangs") from self.error


class Waiter(threading.Thread):
    """Waits for a job's result from its start. `end`: the result, or the error."""

    def __init__(self, job: Any) -> None:
        super().__init__(name=f"waits for {job.id}", daemon=True)
        self._job = job
        self.end: Any = None
        self.start()

    def run(self) -> None:
        from dynatask import EngineError

        while True:
            try:
                self.end = self._job.result(timeout=LIMIT)
            except EngineError:
                continue
            except Exception as error:
                self.end = error
            return

    def ended(self) -> Any:
        self.join(LIMIT)
        return "hangs" if self.is_alive() else self.end


class Round:
    def __init__(self, number: int, fault: Fault, args: argparse.Namespace, folder: Path, plugin: Path) -> None:
        self.number, self.fault, self.args, self.folder, self.plugin = number, fault, args, folder, plugin
        self.rng = random.Random(f"{args.seed}/{number}")
        self.effects = folder / "effects"
        self.effects.touch()
        self.trees: list[tuple[Any, Waiter]] = []
        self.lost = 0
        self.gaps: list[float] = []

    def run(self) -> dict[str, Any]:
        with Guard() as guard:
            scene = Scene(guard, self.fault, self.rng)
            try:
                return self._on(scene)
            except BaseException:
                servers = [scene.pair.master, scene.pair.replica] if scene.pair else [scene.server]
                for server in servers:
                    if server.alive:
                        server("SAVE")
                    shutil.copytree(server.folder, self.folder / server.folder.name, ignore=shutil.ignore_patterns("socket"))
                raise

    def _on(self, scene: Scene) -> dict[str, Any]:
        env = os.environ | {"DYNATASK_URL": scene.url, "EFFECTS": str(self.effects), "DYNATASK_LEASE": str(LEASE)}
        os.environ.update(env)
        import tree

        self.app = tree.App("rounds", scene.url)

        @self.app.extern("p_node")
        def p_node(path: str, n: int) -> int: ...

        self.node = p_node
        begun = time.monotonic()
        scene.workers = rounds.fleet(self.plugin, env, self.folder / "workers.log")
        starter = Starter(lambda i: p_node.using(id=f"small-{i}").start(f"s{i}", SMALL))
        try:
            self._all_at_work(scene.workers)
            self._plant()
            starter.start()
            self._strikes(scene)
            starter.stop()
            self._check(starter.accepted)
        except BaseException:
            pids = [w.process.pid for w in scene.workers]
            stall.dump(scene.url, "rounds", self.trees[-1][0].id if self.trees else "", pids, self.folder / "stall")
            raise
        finally:
            codes = [w.end() for w in scene.workers]
        if any(codes):
            raise Lost(f"workers drained with exit codes {codes}")
        runs = sum(not line.startswith("ended") for line in rounds.noted(self.effects))
        return {
            "round": self.number, "seconds": round(time.monotonic() - begun, 2), "strikes": len(self.gaps),
            "gaps": [round(g, 3) for g in self.gaps], "accepted": len(starter.accepted) + len(self.trees), "refused": starter.refused,
            "lost": self.lost, "doubled": 0, "runs": runs,
        }  # fmt: skip

    def _all_at_work(self, workers: list[Worker]) -> None:
        """Returns once all are workers for the store: one that opens while the server is away says so and ends."""
        clock = Progress(workers)
        while len(self.app.read({"what": "workers"})) < len(workers):
            if clock.stands(None):
                raise Lost("workers did not begin")
            time.sleep(0.005)

    def _plant(self) -> None:
        name = f"r{len(self.trees)}"
        job = self.node.using(id=name).start(name, self.args.tasks)
        self.trees.append((job, Waiter(job)))

    def _strikes(self, scene: Scene) -> None:
        """Strikes at the moments, and watches the tree to its end."""
        from dynatask import NotFound

        tasks = self.args.tasks
        moments = sorted(self.rng.randrange(tasks // 50, tasks * 3 // 4) for _ in range(self.args.kills))
        clock, begun = Progress(scene.workers), time.monotonic()
        scene.counts = lambda: self.trees[-1][0].info().counts
        struck: float | None = None
        before: Any = None
        while True:
            try:
                info = self.trees[-1][0].info()
            except NotFound:
                if not self.fault.lossy:
                    raise
                if not isinstance(end := self.trees[-1][1].ended(), NotFound):
                    raise Lost(f"who waited for a lost job was told {end!r}")
                self._plant()
                continue
            if clock.stands(info.counts) or clock.now - begun > LIMIT:
                raise Lost(f"no progress since {clock.now - clock.since:.0f} s, begun {clock.now - begun:.0f} s ago: {info.counts}")
            if struck and (info.state != "running" or rounds.progress(info.counts) != before):
                self.gaps.append(clock.now - struck)
                struck = None
            if info.state != "running":
                break
            if moments and not struck and info.counts.claimed >= moments[0] and info.counts.running:
                moments.pop(0)
                self.fault.strike(scene)
                struck = time.monotonic()
                try:
                    before = rounds.progress(scene.counts())
                except NotFound:
                    before = None
                clock = Progress(scene.workers)
            else:
                time.sleep(0.002)
        if moments:
            raise Lost(f"the tree ended before {len(moments)} strikes: more --tasks, or fewer --kills")

    def _check(self, accepted: list[int]) -> None:
        from dynatask import NotFound

        small = [(self.app.extern("p_node")(_node).job(f"small-{i}"), f"s{i}", SMALL) for i in accepted]
        ended = self.app.extern("ended")(lambda info: None)
        kept: dict[str, int] = {}
        ids: set[str] = set()
        for job, path, tasks in small + [(job, job.id, self.args.tasks) for job, _ in self.trees]:
            try:
                result = job.result(timeout=60)
            except NotFound:
                if not self.fault.lossy:
                    raise Lost(f"{job.id} was accepted and is lost") from None
                self.lost += 1
                continue
            info = job.info()
            want = dict.fromkeys(info.counts._fields, 0) | {"added": tasks, "claimed": tasks, "succeeded": tasks}
            if (result, info.state, info.counts._asdict()) != (tasks, "succeeded", want):
                raise Lost(f"{job.id}: result {result}, {info.state}, {info.counts}")
            callback = ended.job(f"{job.id}!ended")
            callback.result(timeout=60)
            counts = callback.info().counts
            if (counts.added, counts.claimed, counts.succeeded) != (1, 1, 1):
                raise Lost(f"the callback of {job.id}: {counts}")
            kept[path] = tasks
            ids |= {job.id, callback.id}
        for job, waiter in self.trees:
            if job.id in ids and waiter.ended() != self.args.tasks:
                raise Lost(f"who waited for {job.id} was told {waiter.ended()!r}")
        if strange := {job.id for job in self.app.jobs(limit=len(ids) + 100)} ^ ids:
            raise Lost(f"jobs that should be, or should not: {sorted(strange)[:5]}")
        self._check_effects(rounds.noted(self.effects), kept)

    def _check_effects(self, lines: list[str], kept: dict[str, int]) -> None:
        name = {path: path if path.startswith("r") else f"small-{path[1:]}" for path in kept}
        wrong = Counter(line for line in lines if line.startswith("ended "))
        for path, tasks in kept.items():
            if not wrong.pop(f"ended {name[path]} succeeded {tasks} {tasks}", 0):
                raise Lost(f"no callback saw the end of {name[path]}")
        runs = [line.split() for line in lines if not line.startswith("ended ")]
        paths = {p for path, tasks in kept.items() for p in rounds.expected(path, tasks)}
        seen = {path for path, _, _ in runs}
        if missing := paths - seen:
            raise Lost(f"{len(missing)} paths without effect: {sorted(missing)[:3]}")
        # What ran for a job that is lost is no mistake.
        strange = [p for p in seen - paths if p.partition(".")[0] in kept]
        if strange or (not self.fault.lossy and (wrong or seen - paths)):
            raise Lost(f"effects that nobody asked for: {strange[:3]}, {list(wrong)[:3]}, {sorted(seen - paths)[:3]}")
        if not self.fault.charges and (charged := [run for run in runs if run[2] != "1"]):
            raise Lost(f"{len(charged)} attempts were charged: {charged[:3]}")


def _node(path: str, n: int) -> int: ...


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--fault", choices=[*FAULTS], required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=3000)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    args = parser.parse_args(argv)
    args.kills = FAULTS[args.fault].kills if args.kills is None else args.kills
    print(json.dumps({**vars(args), "about": FAULTS[args.fault].about}), flush=True)
    top = Path(tempfile.mkdtemp(prefix="dynatask-redis-rounds-"))
    plugin = rounds.compiled(top)
    total: Counter[str] = Counter()
    worst = 0.0
    for number in range(1, args.rounds + 1):
        folder = top / f"round-{number}"
        folder.mkdir()
        try:
            line = Round(number, FAULTS[args.fault], args, folder, plugin).run()
        except Exception as e:
            print(json.dumps({"round": number, "failed": f"{type(e).__name__}: {e}", "files": str(folder)}), flush=True)
            return 1
        total.update({key: line[key] for key in ("strikes", "accepted", "refused", "lost", "doubled")})
        worst = max(worst, *line["gaps"])
        print(json.dumps(line), flush=True)
        shutil.rmtree(folder)
    shutil.rmtree(top)
    print(json.dumps({"fault": args.fault, "ok": args.rounds, **total, "worst_gap_seconds": round(worst, 3), "seed": args.seed}), flush=True)
    return 0


if __name__ == "__main__":
    rounds.in_venv()
    sys.exit(main())
