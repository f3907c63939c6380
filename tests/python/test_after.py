"""Order among siblings: after, output."""

import pytest

from dynatask import App, DynataskError, Task, TaskSkipped, then


class Boom(Exception):
    pass


def test_after_waits_for_the_whole_subtree(app: App) -> None:
    log: list[str] = []

    @app.task
    def say(s: str) -> None:
        log.append(s)

    @app.task
    def first() -> None:
        say.spawn("grandchild")

    @app.task
    def root() -> list[str]:
        a = first.spawn()
        say.using(after=[a]).spawn("after").result()
        return log

    with app.worker(slots=1):
        assert root.start().result() == ["grandchild", "after"]


def test_output_stands_for_the_result(app: App) -> None:
    @app.task
    def double(n: int) -> int:
        return 2 * n

    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    @app.task
    def total(ns: list[int], named: dict[str, int]) -> int:
        return sum(ns) + named["x"]

    @app.task
    def root() -> int:
        a = double.spawn(1)
        b = double.spawn(a.output)
        c = add.spawn(a.output, b=b.output)
        d = total.spawn([a.output, 1, c.output], {"x": b.output})  # also inside of an argument
        return d.result()

    with app.worker(slots=1):
        assert root.start().result() == 2 + 1 + 6 + 4


def test_the_ci_pipeline_of_the_api(app: App) -> None:
    @app.task
    def build(commit: str) -> str:
        return f"image-{commit}"

    @app.task
    def unit(image: str) -> None:
        assert image == "image-c1"

    @app.task
    def staging(image: str) -> str:
        return f"staged-{image}"

    @app.task
    def deploy(what: str) -> str:
        return f"deployed-{what}"

    @app.task
    def pipeline(commit: str) -> str:
        image = build.spawn(commit)
        tests = [unit.spawn(image.output), unit.using(key="2").spawn(image.output)]
        staged = staging.using(after=tests).spawn(image.output)
        return then(deploy, staged.output)

    with app.worker(slots=1):
        assert pipeline.start("c1").result() == "deployed-staged-image-c1"


def test_a_failed_one_skips_its_dependents_and_theirs(app: App) -> None:
    ran: list[int] = []

    @app.task
    def broken() -> int:
        raise Boom("x")

    @app.task
    def next_one(n: int) -> int:
        ran.append(n)
        return n

    @app.task
    def root() -> str:
        a = broken.using(may_fail=True).spawn()
        b = next_one.spawn(a.output)
        c = next_one.using(after=[b]).spawn(7)
        for h in (b, c):
            error = h.error()
            assert isinstance(error, TaskSkipped) and error.reason == "after"
        return "ok"

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == "ok"
        assert job.info().counts.skipped == 2
        assert ran == []


def test_after_many_and_many_after_one(app: App) -> None:
    done: list[int] = []

    @app.task
    def leaf(n: int) -> int:
        done.append(n)
        return n

    @app.task
    def root() -> int:
        first = [leaf.spawn(n) for n in range(100)]
        middle = leaf.using(after=first).spawn(1000)
        last = [leaf.using(after=[middle]).spawn(2000 + n) for n in range(100)]
        for h in last:
            h.result()
        assert done.index(1000) == 100
        return len(done)

    with app.worker(slots=2):
        assert root.start().result() == 201


def test_after_names_earlier_siblings_only(app: App) -> None:
    @app.task
    def leaf() -> int:
        return 1

    @app.task
    def stranger(h: Task[int]) -> str:
        with pytest.raises(DynataskError):
            leaf.using(after=[h]).spawn()
        return "refused"

    @app.task
    def root() -> str:
        h = leaf.spawn()
        return stranger.spawn(h).result()

    with app.worker(slots=1):
        assert root.start().result() == "refused"


def test_after_and_delay(app: App) -> None:
    log: list[str] = []

    @app.task
    def say(s: str) -> None:
        log.append(s)

    @app.task
    def root() -> list[str]:
        a = say.spawn("a")
        say.using(after=[a], delay=0.05).spawn("b").result()
        return log

    with app.worker(slots=1):
        assert root.start().result() == ["a", "b"]


def test_output_outside_of_a_call_is_refused(app: App) -> None:
    @app.task
    def leaf() -> int:
        return 1

    @app.task
    def root() -> int:
        h = leaf.spawn()
        return h.output  # stands for a result; it is none

    with app.worker(slots=1):
        assert root.start().error() is not None
