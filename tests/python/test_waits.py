"""Waiting in plain handlers and outside: result, wait, children, as_completed, then."""

import asyncio
import threading

import pytest

from dynatask import (
    App,
    ChildrenFailed,
    Deadlock,
    TaskCancelled,
    TaskFailed,
    TaskSkipped,
    Unique,
    WaitTimeout,
    as_completed,
    children,
    then,
)


class Boom(Exception):
    pass


async def opened(gate: threading.Event) -> None:
    """For coroutine handlers: plain ones would keep the thread that a parked one comes back to."""
    while not gate.is_set():
        await asyncio.sleep(0.001)


def test_wait_means_complete_not_finished(app: App) -> None:
    gate = threading.Event()

    @app.task
    async def grandchild() -> None:
        await opened(gate)

    @app.task
    def child() -> str:
        grandchild.spawn()
        return "finished"

    @app.task
    def root() -> str:
        h = child.spawn()
        assert h.wait(0) is False
        gate.set()
        return h.result()

    with app.worker(slots=3):
        assert root.start().result() == "finished"


@pytest.mark.parametrize("dropped", [False, True], ids=["all made", "one dropped"])
def test_a_wait_for_one_is_not_for_all(app: App, dropped: bool) -> None:
    """Whatever was awaited before it."""
    gate = threading.Event()

    @app.task
    async def late() -> None:
        await opened(gate)

    @app.task(unique=Unique(scope="job", over="drop"))
    def soon(n: int) -> int:
        return n

    @app.task
    def root() -> int:
        with children():
            soon.spawn(1)
            if dropped:
                soon.spawn(1)
        assert soon.spawn(2).result() == 2
        other, awaited = late.spawn(), soon.spawn(3)
        got = awaited.result()
        gate.set()
        other.result()
        return got

    with app.worker(slots=3):
        assert root.start().result(timeout=5) == 3


def test_outside_wait_and_timeout(app: App) -> None:
    gate = threading.Event()

    @app.task
    async def slow() -> int:
        await opened(gate)
        return 1

    with app.worker(slots=1):
        job = slow.start()
        assert job.wait(0) is False
        with pytest.raises(WaitTimeout) as caught:
            job.result(timeout=0.01)
        assert isinstance(caught.value, TimeoutError) and job.id in str(caught.value)
        with pytest.raises(WaitTimeout):
            job.error(timeout=0.01)
        gate.set()
        assert job.wait() is True
        assert job.wait(0) is True
        assert job.result(timeout=0) == 1


def test_result_timeout_in_a_handler_leaves_the_child_alive(app: App) -> None:
    gate = threading.Event()

    @app.task
    async def slow() -> int:
        await opened(gate)
        return 5

    @app.task
    def root() -> int:
        h = slow.spawn()
        with pytest.raises(WaitTimeout):
            h.result(timeout=0.01)
        assert h.wait(0.01) is False
        gate.set()
        return h.result()

    with app.worker(slots=2):
        assert root.start().result() == 5


def test_result_may_be_asked_again(app: App) -> None:
    @app.task
    def leaf() -> list[int]:
        return [1, 2]

    @app.task
    def root() -> list[int]:
        h = leaf.spawn()
        return h.result() + h.result()

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == job.result() == [1, 2, 1, 2]


def test_children_waits_for_all_spawned_inside_and_their_descendants(app: App) -> None:
    done: list[int] = []

    @app.task
    def leaf(n: int) -> None:
        done.append(n)

    @app.task
    def middle(n: int) -> None:
        leaf.spawn(n)

    @app.task
    def root() -> int:
        with children():
            for n in range(10):
                middle.spawn(n)
        return len(done)

    with app.worker(slots=1):
        assert root.start().result() == 10


def test_children_covers_only_what_is_inside(app: App) -> None:
    gate = threading.Event()

    @app.task
    async def outside() -> None:
        await opened(gate)

    @app.task
    def inside() -> None: ...

    @app.task
    def root() -> bool:
        outside.spawn()
        with children():
            inside.spawn()
        was_open = not gate.is_set()
        gate.set()
        return was_open

    with app.worker(slots=2):
        assert root.start().result() is True


def test_children_nest(app: App) -> None:
    log: list[str] = []

    @app.task
    def say(s: str) -> None:
        log.append(s)

    @app.task
    def root() -> list[str]:
        with children():
            say.spawn("a")
            with children():
                say.spawn("b")
            assert "b" in log
            with children():
                pass
            say.spawn("c")
        return sorted(log)

    with app.worker(slots=1):
        assert root.start().result() == ["a", "b", "c"]


def test_children_failed_and_tolerated(app: App) -> None:
    @app.task
    def child(n: int) -> None:
        if n < 3:
            raise Boom(str(n))

    @app.task
    def root(tolerate: float) -> str:
        with children(tolerate=int(tolerate) if tolerate >= 1 or tolerate == 0 else tolerate):
            for n in range(10):
                child.spawn(n)
        return "tolerated"

    with app.worker(slots=2):
        for tolerate in (3, 4, 0.3, 0.5):
            job = root.start(tolerate)
            assert job.result() == "tolerated"
            assert job.info().counts.failed == 3
        for tolerate in (0, 2, 0.29):
            with pytest.raises(ChildrenFailed) as caught:
                root.start(tolerate).result()
            error = caught.value
            assert "3" in str(error)


def test_children_failed_is_catchable_and_seen(app: App) -> None:
    @app.task
    def broken() -> None:
        raise Boom("x")

    @app.task
    def root() -> int:
        try:
            with children():
                broken.spawn()
                broken.using(key="again").spawn()
        except ChildrenFailed as e:
            assert [x.type for x in e.errors] == ["Boom", "Boom"]
            return e.failed
        return 0

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == 2
        assert job.info().state == "succeeded"


def test_children_failed_is_told_from_the_store(app: App) -> None:
    @app.task
    def leaf(n: int, depth: int) -> None:
        if depth:
            with children():
                for i in range(3):
                    leaf.spawn(i, depth - 1)
        raise Boom(f"leaf {n}")

    @app.task
    def root() -> None:
        with children():
            for n in range(120):
                leaf.using(key=str(n)).spawn(n, 0)

    @app.task
    def asked() -> tuple[int, list[str]]:
        error = root.spawn().error()
        assert isinstance(error, ChildrenFailed)
        return error.failed, [e.message for e in error.errors]

    with app.worker(slots=2):
        job = root.start()
        for error in (job.error(), job.info().error, job.tree(0).error):
            assert isinstance(error, ChildrenFailed)
            assert (error.failed, len(error.errors)) == (120, 100)
            assert {e.type for e in error.errors} == {"Boom"} and all(type(e) is TaskFailed for e in error.errors)
            assert len({e.task_id for e in error.errors}) == 100
        failed, messages = asked.start().result()
        assert (failed, len(messages)) == (120, 100) and all(m.startswith("leaf ") for m in messages)
        deep = leaf.start(0, 3).error()
        assert isinstance(deep, ChildrenFailed) and deep.failed == 3
        assert all(isinstance(e, ChildrenFailed) and e.failed == 3 and not e.errors for e in deep.errors)


def test_the_other_ends_of_children_failed_keep_their_class(app: App) -> None:
    @app.task
    def broken() -> None:
        raise Boom("x")

    @app.task
    def never() -> None: ...

    @app.task
    def root() -> None:
        first = broken.spawn()
        after = never.using(after=[first]).spawn()
        later = never.using(delay=3600).spawn()
        later.cancel()
        ends = [e for h in (first, after, later) if (e := h.error()) is not None]
        raise ChildrenFailed("three ends", errors=ends)

    with app.worker(slots=1):
        error = root.start().error()
    assert isinstance(error, ChildrenFailed) and error.failed == 3
    assert [type(e) for e in error.errors] == [TaskFailed, TaskSkipped, TaskCancelled]
    assert isinstance(skipped := error.errors[1], TaskSkipped) and skipped.reason == "after"


def test_fail_fast_cancels_the_rest(app: App) -> None:
    @app.task
    def broken() -> None:
        raise Boom("x")

    @app.task
    def never() -> None: ...

    @app.task
    def root() -> int:
        try:
            with children(fail_fast=True):
                for n in range(20):
                    never.using(delay=3600, key=str(n)).spawn()
                broken.spawn()
        except ChildrenFailed as e:
            return e.failed
        return 0

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == 1
        counts = job.info().counts
        assert (counts.cancelled, counts.failed, counts.succeeded) == (20, 1, 1)


def test_children_timeout_cancels_the_rest(app: App) -> None:
    @app.task
    def never() -> None: ...

    @app.task
    def quick() -> int:
        return 3

    @app.task
    def root() -> int:
        with pytest.raises(WaitTimeout):
            with children(timeout=0.05):
                h = quick.spawn()
                never.using(delay=3600).spawn()
                h.wait()  # complete before the rest is cancelled, however slow the machine is
        return h.result()

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == 3
        counts = job.info().counts
        assert (counts.cancelled, counts.succeeded) == (1, 2)


def test_scope_cancel(app: App) -> None:
    @app.task
    def never(n: int) -> None: ...

    @app.task
    def root() -> str:
        outside = never.using(delay=3600).spawn(99)
        with children() as scope:
            for n in range(3):
                never.using(delay=3600).spawn(n)
            scope.cancel()
        assert outside.wait(0) is False
        outside.cancel()
        return "left"

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == "left"
        assert job.info().counts.cancelled == 4


def test_an_error_in_the_body_leaves_at_once_and_the_children_live_on(app: App) -> None:
    gate = threading.Event()

    @app.task
    async def slow() -> None:
        await opened(gate)

    @app.task
    def root() -> str:
        try:
            with children():
                slow.spawn()
                raise LookupError("body")
        except LookupError:
            gate.set()
        return "left"

    with app.worker(slots=2):
        job = root.start()
        assert job.result() == "left"
        assert job.info().counts.succeeded == 2


def test_as_completed_gives_each_once_in_the_order_of_completion(app: App) -> None:
    gates = [threading.Event() for _ in range(3)]

    @app.task
    async def gated(n: int) -> int:
        await opened(gates[n])
        return n

    @app.task
    def root() -> list[int]:
        hs = [gated.spawn(n) for n in range(3)]
        gates[1].set()
        order: list[int] = []
        for h in as_completed(hs):
            order.append(h.result())
            for g in (2, 0):
                if not gates[g].is_set():
                    gates[g].set()
                    break
        return order

    with app.worker(slots=4):
        assert root.start().result() == [1, 2, 0]


def test_as_completed_gives_failures_too_and_times_out(app: App) -> None:
    @app.task
    def broken() -> None:
        raise Boom("x")

    @app.task
    def never() -> None: ...

    @app.task
    def root() -> int:
        hs = [broken.spawn(), never.using(delay=3600).spawn()]
        hs[0].wait()
        seen = 0
        with pytest.raises(WaitTimeout):
            for h in as_completed(hs, timeout=0.05):
                assert h.error() is not None
                seen += 1
        hs[1].cancel()
        return seen

    @app.task
    def nothing() -> list[int]:
        return [1 for _ in as_completed([])]

    with app.worker(slots=1):
        assert root.start().result() == 1
        assert nothing.start().result() == []


def test_then_takes_the_place_and_the_handle(app: App) -> None:
    log: list[str] = []

    @app.task
    def child(n: int) -> None:
        log.append(f"child {n}")

    @app.task
    def last(word: str) -> str:
        log.append("last")
        return word + "!"

    @app.task
    def middle() -> str:
        child.map(range(3))
        return then(last, "done")

    @app.task
    def root() -> str:
        return middle.spawn().result()

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == "done!"
        assert log[-1] == "last" and len(log) == 4
        assert job.info().counts.added == 5  # `last` took middle's place


def test_then_may_go_on_and_on(app: App) -> None:
    @app.task
    def count(n: int, left: int) -> int:
        return n if left == 0 else then(count, n + 1, left - 1)

    with app.worker(slots=1):
        job = count.start(0, 50)
        assert job.result() == 50
        assert job.info().counts.added == 1


def test_then_after_a_failure_does_not_run(app: App) -> None:
    ran: list[int] = []

    @app.task
    def broken() -> None:
        raise Boom("x")

    @app.task
    def last() -> int:
        ran.append(1)
        return 1

    @app.task(retries=3, backoff=0)
    def root() -> int:
        broken.spawn()
        return then(last)

    with app.worker(slots=1):
        job = root.start()
        error = job.error()
        assert isinstance(error, ChildrenFailed) or (error is not None and error.type == "ChildrenFailed")
        assert job.info().state == "failed"
        assert job.info().counts.added == 2  # no retry
        assert ran == []


def test_waiting_for_what_is_not_ones_own_child_is_a_deadlock(app: App) -> None:
    @app.task
    def never() -> None: ...

    @app.task
    def nosy(what: str) -> str:
        from dynatask import context

        me = context()
        if what == "parent":
            assert me.parent is not None
            h = me.parent
        elif what == "self":
            h = me.task
        else:
            h = me.job
        with pytest.raises(Deadlock) as caught:
            h.result()
        return caught.value.code

    @app.task
    def root() -> list[str]:
        return [nosy.spawn(what).result() for what in ("parent", "self", "job")]

    @app.task
    def foreign(job_id: str) -> str:
        with pytest.raises(Deadlock):
            never.job(job_id).result()
        return "refused"

    with app.worker(slots=2):
        assert root.start().result() == ["EDEADLOCK"] * 3
        other = never.using(delay=3600).start()
        assert foreign.start(other.id).result() == "refused"
        other.cancel()


def test_a_foreign_handle_is_readable_once_complete(app: App) -> None:
    @app.task
    def leaf() -> int:
        return 6

    @app.task
    def reader(job_id: str) -> int:
        return leaf.job(job_id).result()

    with app.worker(slots=1):
        other = leaf.start()
        other.result()
        assert reader.start(other.id).result() == 6


def test_a_hundred_deep_on_one_slot(app: App) -> None:
    @app.task
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + down.spawn(n - 1).result()

    with app.worker(slots=1):
        assert down.start(100).result() == 100


def test_waits_past_max_parked_drop_their_frames(app: App) -> None:
    @app.task
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + down.spawn(n - 1).result()

    with app.worker(slots=1, max_parked=10):
        job = down.start(60)
        assert job.result() == 60
        assert job.info().counts.added == 61  # re-runs found their children


def test_many_wait_at_once_on_few_slots(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def parent(n: int) -> int:
        return leaf.spawn(n).result() + leaf.spawn(n + 1).result()

    @app.task
    def root() -> int:
        return sum(parent.map(range(200)).result())

    with app.worker(slots=2):
        assert root.start().result() == sum(2 * n + 1 for n in range(200))


def test_cancelled_child_raises(app: App) -> None:
    @app.task
    def never() -> None: ...

    @app.task
    def root() -> str:
        h = never.using(delay=3600).spawn()
        assert h.cancel() is True
        error = h.error()
        assert isinstance(error, TaskCancelled) and isinstance(error, TaskFailed)
        with pytest.raises(TaskCancelled):
            h.result()
        assert h.cancel() is False
        return "ok"

    with app.worker(slots=1):
        assert root.start().result() == "ok"
