"""What crash rounds on real servers share: a fault that strikes again and again while jobs of known size run, and the count afterwards.

A program (redis_rounds.py, kafka_rounds.py) has a table of faults, each with
the Scene it strikes at. Each round has fresh servers, C and Python worker
processes (lease: LEASE seconds), a job whose tree has exactly --tasks tasks
(tree.py, tree.c), somebody who waits for its result all the time, and a
thread that starts small jobs (trees of SMALL tasks) all the while, faults
included. A job counts as accepted once its start has returned. At --kills
moments, when a task of the tree is just running, the fault strikes; where a
tree ends before the last of them, another one follows.

After each round it is checked that
  - no accepted job is lost, where the fault may not lose any. Where it may,
    the lost are counted; who waits for one is told NotFound; and when the tree
    is among them a new one is started with the same workers. Jobs that the
    fault itself deleted are lost, all of them and no others;
  - every other accepted job ended once: succeeded, its result and its counts
    exact, one callback job, each run of which saw the final counts;
  - each path of those trees is in the log of effects, and no other;
  - no attempt was charged, where nothing but a server was away: each run
    says in the log which attempt it is;
  - there are no jobs but these, and no worker ended by itself or does not drain.
60 s without progress are a failure at once, and stall.py writes down what it
sees. Prints a line of JSON for each round (`in_flight`: the fewest tasks of the
tree that ran when a fault struck); the first line says the seed, the last sums
up: strikes, jobs accepted, lost, doubled (ended otherwise than once; 0, or the
round failed). Exit code 1 at the first round that fails, whose files are kept,
with the servers' logs and data. Any Python runs it, as rounds.py. Every row of
both programs at once: rows.py.
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import rounds
import stall
from rounds import LIMIT, Lost, Progress, Worker

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from servers import Guard, Server  # noqa: E402

LEASE = 1.5  # seconds
SMALL = 3  # tasks of a small job
PACE = 0.03  # seconds between starts: where a start costs the store nothing, more than workers can do would leave the tree nothing


class Scene:
    """What a fault strikes at: servers, workers, the starter, the tree's counts, chance. A subclass starts the servers in its constructor."""

    pairs = 2  # of workers, a C and a Python one
    rng: random.Random
    workers: list[Worker]
    starter: Starter
    counts: Callable[[], Any]

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.deleted: set[str] = set()  # accepted jobs that the fault has deleted

    @property
    def url(self) -> str:
        raise NotImplementedError

    def keep(self, folder: Path) -> None:
        """Copies what the servers leave behind."""
        for server in self.servers():
            shutil.copytree(server.folder, folder / server.folder.name, ignore=shutil.ignore_patterns("socket"))

    def servers(self) -> list[Server]:
        raise NotImplementedError

    def some(self, language: str) -> list[Worker]:
        return [w for w in self.workers if w.language == language]


S = TypeVar("S", bound=Scene)


@dataclass
class Fault(Generic[S]):
    """scene: makes the servers. strike: does it, and returns when it is over. durability: what the servers keep, in words. loses: which
    accepted jobs are lost, in words; lossy: which, only the servers know. charges: attempts may be charged. kills: strikes of a round,
    unless --kills says it; one where the rest of the tree ends meanwhile."""

    about: str
    strike: Callable[[S], None]
    scene: Callable[[Guard], S]
    durability: str
    loses: str = "nothing"
    lossy: bool = False
    charges: bool = False
    kills: int = 2


# ---- what strikes anywhere ---------------------------------------------------------------------------


def last(seconds: float) -> None:
    """A fault's length."""
    threading.Event().wait(seconds)


def kill_workers(scene: Scene, victims: list[Worker]) -> None:
    for victim in victims:
        victim.kill()
    for victim in victims:
        victim.start()


def kill_one(language: str) -> Callable[[Scene], None]:
    return lambda scene: kill_workers(scene, [scene.rng.choice(scene.some(language))])


def kill_all(scene: Scene) -> None:
    kill_workers(scene, scene.workers)


def freeze_worker(scene: Scene) -> None:
    victim = scene.rng.choice(scene.workers)
    victim.pause()
    last(3 * LEASE)
    victim.resume()


def cut(scene: Scene, proxies: list[Any]) -> None:
    """A network is cut for up to two leases: in silence, or by breaking all connections and refusing new ones."""
    length = scene.rng.uniform(0, 2 * LEASE)
    silent = scene.rng.random() < 0.5
    for proxy in proxies:
        proxy.pause() if silent else proxy.kill()
    last(length)
    for proxy in proxies:
        proxy.resume() if silent else proxy.start()


# ---- who starts, who waits --------------------------------------------------------------------------


class Starter(threading.Thread):
    """Starts small jobs until told to stop. `accepted`: the jobs. `start_one` may be replaced; it runs under `gate`."""

    def __init__(self, start_one: Callable[[int], Any]) -> None:
        super().__init__(name="starter", daemon=True)
        self.start_one, self._over = start_one, threading.Event()
        self.gate = threading.Lock()
        self.accepted: list[Any] = []
        self.refused = 0
        self.error: Exception | None = None

    def run(self) -> None:
        from dynatask import EngineError

        while not self._over.is_set() and not self.error:
            try:
                with self.gate:
                    job = self.start_one(len(self.accepted))
            except EngineError:  # not known to be accepted: asked again under the same id
                self.refused += 1
                self._over.wait(0.05)
            except Exception as error:
                self.error = error
            else:
                self.accepted.append(job)
                self._over.wait(PACE)

    def until(self, accepted: int) -> None:
        """Returns once it has so many."""
        until = time.monotonic() + LIMIT
        while len(self.accepted) < accepted:
            if self.error or time.monotonic() > until:
                raise Lost(f"{len(self.accepted)} starts were accepted, not {accepted}: {self.error!r}")
            time.sleep(0.005)

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


# ---- a round -------------------------------------------------------------------------------------------


class Round:
    def __init__(self, number: int, fault: Fault[Any], args: argparse.Namespace, folder: Path, plugin: Path) -> None:
        self.number, self.fault, self.args, self.folder, self.plugin = number, fault, args, folder, plugin
        self.rng = random.Random(f"{args.seed}/{number}")
        self.effects = folder / "effects"
        self.effects.touch()
        self.trees: list[tuple[Any, Waiter]] = []
        self.lost = 0
        self.gaps: list[float] = []
        self.in_flight: list[int] = []  # tasks of the tree that ran, at each strike

    def run(self) -> dict[str, Any]:
        with Guard() as guard:
            scene = self.fault.scene(guard)
            scene.rng = self.rng
            try:
                return self._on(scene)
            except BaseException:
                scene.keep(self.folder)
                raise

    def _on(self, scene: Scene) -> dict[str, Any]:
        env = os.environ | {"DYNATASK_URL": scene.url, "EFFECTS": str(self.effects), "DYNATASK_LEASE": str(LEASE)}
        os.environ.update(env)
        import tree

        self.app = tree.App("rounds", scene.url)
        self.node = self.app.extern("p_node")(_node)
        begun = time.monotonic()
        scene.workers = rounds.fleet(self.plugin, env, self.folder / "workers.log", scene.pairs)
        scene.starter = starter = Starter(small(self.app))
        try:
            self._all_at_work(scene.workers)
            self._plant()
            starter.start()
            self._strikes(scene)
            starter.stop()
            self._check(starter.accepted, scene.deleted)
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
            "gaps": [round(g, 3) for g in self.gaps], "in_flight": min(self.in_flight, default=0),
            "accepted": len(starter.accepted) + len(self.trees), "refused": starter.refused, "lost": self.lost, "doubled": 0, "runs": runs,
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

    def _moments(self, left: int) -> list[int]:
        return sorted(self.rng.randrange(self.args.tasks // 50, self.args.tasks * 3 // 4) for _ in range(left))

    def _strikes(self, scene: Scene) -> None:
        """Strikes at the moments, and watches the tree to its end."""
        from dynatask import NotFound

        moments = self._moments(self.args.kills)
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
                end = self.trees[-1][1].ended()
                if not isinstance(end, NotFound) and end != self.args.tasks:  # it may have ended before it was lost
                    raise Lost(f"who waited for a lost job was told {end!r}")
                self._plant()
                continue
            if clock.stands(info.counts) or clock.now - begun > LIMIT:
                raise Lost(f"no progress since {clock.now - clock.since:.0f} s, begun {clock.now - begun:.0f} s ago: {info.counts}")
            if struck and (info.state != "running" or rounds.progress(info.counts) != before):
                self.gaps.append(clock.now - struck)
                struck = None
            if info.state != "running":
                if not moments:
                    return
                moments = self._moments(len(moments))
                self._plant()
            elif moments and not struck and info.counts.claimed >= moments[0] and info.counts.running:
                moments.pop(0)
                self.in_flight.append(info.counts.running)
                self.fault.strike(scene)
                struck = time.monotonic()
                try:
                    before = rounds.progress(scene.counts())
                except NotFound:
                    before = None
                clock = Progress(scene.workers)
            else:
                time.sleep(0.005)

    def _check(self, accepted: list[Any], deleted: set[str]) -> None:
        from dynatask import NotFound

        ended = self.app.extern("ended")(lambda info: None)
        kept: dict[str, int] = {}
        ids: set[str] = set()
        small_ones = [(job, f"s{i}", SMALL) for i, job in enumerate(accepted)]
        for job, path, tasks in small_ones + [(job, job.id, self.args.tasks) for job, _ in self.trees]:
            try:
                result = job.result(timeout=60)
            except NotFound:
                if not self.fault.lossy and job.id not in deleted:
                    raise Lost(f"{job.id} was accepted and is lost") from None
                self.lost += 1
                continue
            if job.id in deleted:
                raise Lost(f"{job.id} was deleted, and is there")
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


def small(app: Any) -> Callable[[int], Any]:
    """What starts the small jobs through this app."""
    node = app.extern("p_node")(_node)
    return lambda i: node.using(id=f"small-{i}").start(f"s{i}", SMALL)


def main(about: str, faults: Mapping[str, Fault[Any]], argv: list[str] | None = None) -> int:
    """The program. about: its first line of help."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--fault", choices=[*faults], required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=3000)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    args = parser.parse_args(argv)
    fault = faults[args.fault]
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # stall.py asks the program
    args.kills = fault.kills if args.kills is None else args.kills
    print(json.dumps({"program": Path(sys.argv[0]).name, **vars(args), "about": fault.about}), flush=True)
    top = Path(tempfile.mkdtemp(prefix="dynatask-fault-rounds-"))
    plugin = rounds.compiled(top)
    total: Counter[str] = Counter()
    worst = 0.0
    for number in range(1, args.rounds + 1):
        folder = top / f"round-{number}"
        folder.mkdir()
        try:
            line = Round(number, fault, args, folder, plugin).run()
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
