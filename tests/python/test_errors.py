"""What a failure looks like to who waits, and when it climbs (API 1d, MODEL A8)."""

import pytest

from dynatask import (
    App,
    ChildrenFailed,
    DynataskError,
    Fatal,
    Retry,
    TaskCancelled,
    TaskFailed,
    TaskSkipped,
    Unwind,
    UsageError,
    children,
)


class Known(Exception):
    pass


class Unknown(Exception):
    pass


def test_builtin_class_comes_back_with_its_cause(app: App) -> None:
    @app.task
    def broken(n: int) -> int:
        raise ValueError(f"no {n}")

    with app.worker(slots=1):
        job = broken.start(3)
        with pytest.raises(ValueError, match="no 3") as caught:
            job.result()
        cause = caught.value.__cause__
        assert isinstance(cause, TaskFailed)
        assert (cause.type, cause.message, cause.language, cause.attempts) == ("ValueError", "no 3", "python", 1)
        # It begins with the handler, not with what of the package called it.
        lines = cause.traceback.splitlines()
        assert "raise ValueError" in cause.traceback and __file__ in lines[1] and "in broken" in lines[1]
        assert cause.task_id == f"{job.id}/0"
        assert cause.code == "EFAILED"
        assert job.info().state == "failed"


def test_registered_class_comes_back_others_are_task_failed(new_app) -> None:
    app = new_app(errors=[Known])

    @app.task
    def broken(known: bool) -> None:
        raise Known("a") if known else Unknown("b")

    with app.worker(slots=1):
        with pytest.raises(Known, match="a"):
            broken.start(True).result()
        with pytest.raises(TaskFailed) as caught:
            broken.start(False).result()
        assert (caught.value.type, caught.value.message) == ("Unknown", "b")


def test_error_waits_and_does_not_raise(app: App) -> None:
    @app.task
    def maybe(bad: bool) -> None:
        if bad:
            raise KeyError("k")

    with app.worker(slots=1):
        assert maybe.start(False).error() is None
        error = maybe.start(True).error()
        assert isinstance(error, TaskFailed) and error.type == "KeyError"


def test_the_same_classes_inside_a_handler(app: App) -> None:
    @app.task
    def broken() -> int:
        raise ZeroDivisionError("x")

    @app.task
    def root() -> str:
        try:
            broken.spawn().result()
        except ZeroDivisionError as e:
            assert isinstance(e.__cause__, TaskFailed)
            return e.__cause__.task_id
        return ""

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == f"{job.id}/1"
        info = job.info()
        assert (info.state, info.counts.failed, info.counts.succeeded) == ("succeeded", 1, 1)


def test_unseen_failure_climbs_and_fails_the_job(app: App) -> None:
    @app.task
    def broken() -> None:
        raise Unknown("deep")

    @app.task
    def middle() -> int:
        broken.spawn()
        return 1

    @app.task
    def root() -> int:
        middle.spawn()
        return 2

    with app.worker(slots=1):
        job = root.start()
        with pytest.raises(TaskFailed) as caught:
            job.result()
        assert "deep" in str(caught.value) or f"{job.id}/2" in str(caught.value)
        info = job.info()
        assert info.state == "failed"
        assert (info.counts.succeeded, info.counts.failed) == (2, 1)
        assert info.error is not None


def test_a_child_that_succeeded_but_is_bad_raises_at_its_parent(app: App) -> None:
    @app.task
    def broken() -> None:
        raise Unknown("deep")

    @app.task
    def middle() -> int:
        broken.spawn()
        return 1

    @app.task
    def root() -> str:
        child = middle.spawn()
        with pytest.raises(TaskFailed):
            child.result()
        return "seen"

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == "seen"
        assert job.info().state == "succeeded"


@pytest.mark.parametrize("look", ["result", "error", "children", "may_fail"])
def test_a_failure_that_was_looked_at_does_not_climb(app: App, look: str) -> None:
    @app.task
    def broken() -> None:
        raise Unknown("x")

    @app.task
    def root(look: str) -> str:
        if look == "may_fail":
            broken.using(may_fail=True).spawn()
        elif look == "children":
            with children(tolerate=1):
                broken.spawn()
        else:
            child = broken.spawn()
            if look == "error":
                assert child.error() is not None
            else:
                with pytest.raises(TaskFailed):
                    child.result()
        return look

    with app.worker(slots=1):
        job = root.start(look)
        assert job.result() == look
        info = job.info()
        assert (info.state, info.counts.failed) == ("succeeded", 1)


def test_wait_alone_does_not_look(app: App) -> None:
    @app.task
    def broken() -> None:
        raise Unknown("x")

    @app.task
    def root() -> bool:
        return broken.spawn().wait()

    with app.worker(slots=1):
        job = root.start()
        assert job.error() is not None
        assert job.info().state == "failed"


def test_cancelled_and_skipped_children_are_not_bad(app: App) -> None:
    @app.task
    def broken() -> None:
        raise Unknown("x")

    @app.task
    def never() -> None: ...

    @app.task
    def root() -> str:
        bad = broken.using(may_fail=True).spawn()
        skipped = never.using(after=[bad]).spawn()
        gone = never.using(delay=3600).spawn()
        gone.cancel()
        with pytest.raises(TaskSkipped) as s:
            skipped.result()
        assert s.value.reason == "after"
        with pytest.raises(TaskCancelled):
            gone.result()
        never.using(delay=3600).spawn().cancel()  # and one that nobody asks
        return "fine"

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == "fine"
        counts = job.info().counts
        assert (counts.failed, counts.skipped, counts.cancelled, counts.succeeded) == (1, 1, 2, 1)


def test_batch_raises_children_failed_all_seen(app: App) -> None:
    @app.task
    def odd_fails(n: int) -> int:
        if n % 2:
            raise Unknown(str(n))
        return n

    @app.task
    def root() -> list[int]:
        batch = odd_fails.map(range(10))
        with pytest.raises(ChildrenFailed) as caught:
            batch.result()
        assert caught.value.failed == 5
        assert len(caught.value.errors) == 5
        assert all(isinstance(e, TaskFailed) for e in caught.value.errors)
        assert {e.message for e in caught.value.errors} == {"1", "3", "5", "7", "9"}
        return [t.result() for t in batch if t.error() is None]

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == [0, 2, 4, 6, 8]
        assert job.info().state == "succeeded"


def test_children_failed_keeps_the_first_hundred(app: App) -> None:
    @app.task
    def broken(n: int) -> int:
        raise Unknown(str(n))

    @app.task
    def root() -> tuple[int, int]:
        try:
            broken.map(range(150)).result()
        except ChildrenFailed as e:
            return e.failed, len(e.errors)
        return 0, 0

    with app.worker(slots=4):
        assert tuple(root.start().result()) == (150, 100)


def test_fatal_is_named_by_its_message(app: App) -> None:
    @app.task(retries=5)
    def f() -> None:
        raise Fatal("broken for good")

    with app.worker(slots=1):
        error = f.start().error()
        assert error is not None and error.attempts == 1 and "broken for good" in error.message


def test_every_error_has_its_c_name() -> None:
    import dynatask as d

    names = {
        d.NotInTask: "EUSAGE", d.WouldBlock: "EUSAGE", d.Deadlock: "EDEADLOCK", d.BadArguments: "EARGS",
        d.NotFound: "ENOTFOUND", d.Conflict: "ECONFLICT", d.TooBig: "ETOOBIG", d.EngineError: "EENGINE",
        d.VersionError: "EVERSION", d.WaitTimeout: "ETIMEOUT", d.Diverged: "EDIVERGED", d.TaskFailed: "EFAILED",
        d.TaskCancelled: "ECANCELLED", d.TaskSkipped: "ESKIPPED",
    }  # fmt: skip
    for cls, code in names.items():
        assert cls.code == code, cls
        assert issubclass(cls, DynataskError)
    assert issubclass(d.NotFound, LookupError) and issubclass(d.WaitTimeout, TimeoutError)
    assert issubclass(d.BadArguments, TypeError) and issubclass(d.Deadlock, UsageError)
    assert issubclass(d.ChildrenFailed, TaskFailed) and issubclass(d.TaskCancelled, TaskFailed)
    assert not issubclass(d.Cancelled, Exception) and not issubclass(d.Unwind, Exception)
    assert issubclass(d.Retry, Exception) and issubclass(d.Fatal, Exception)


@pytest.mark.parametrize("again", [False, True])
def test_an_error_longer_than_max_payload_is_cut_and_retried(new_app, again: bool) -> None:
    app = new_app(max_payload="1KiB")

    @app.task(retries=1)
    def broken() -> None:
        text = "ä" * 5000
        raise Retry(text) if again else ValueError(text)

    with app.worker(slots=1):
        error = broken.start().error()
    assert error is not None
    assert (error.type, error.attempts) == ("Retry" if again else "ValueError", 2)
    assert error.message.startswith("ää") and error.message.endswith("ä…")
    assert error.traceback.startswith("…")


def test_start_map_fails_within_max_payload(new_app) -> None:
    app = new_app(max_payload="4KiB")

    @app.task
    def broken(n: int) -> int:
        raise ValueError("x" * 900)

    with app.worker(slots=2):
        error = broken.start_map(range(20)).error()
    assert isinstance(error, ChildrenFailed)
    assert error.failed == 20 and len(error.errors) < 20
    assert "20 children did not succeed, the first " in error.message and len(error.message) <= 2200


def test_not_found(app: App) -> None:
    @app.task
    def f() -> None: ...

    from dynatask import NotFound

    for look in (lambda: f.job("nowhere").info(), lambda: f.job("nowhere").result(), lambda: f.job("nowhere").tree()):
        with pytest.raises(NotFound) as caught:
            look()
        assert "nowhere" in str(caught.value)


@pytest.mark.parametrize("raiser", ["system_exit", "keyboard", "generator_exit", "bad_str", "huge", "no_message", "unwind"])
def test_strange_exceptions_fail_the_task_not_the_worker(app: App, raiser: str) -> None:
    class BadStr(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text for you")

    def error(raiser: str) -> BaseException:
        return {
            "system_exit": SystemExit(3),
            "keyboard": KeyboardInterrupt(),
            "generator_exit": GeneratorExit(),
            "bad_str": BadStr(),
            "huge": ValueError("x" * 1_000_000),
            "no_message": ValueError(),
            "unwind": Unwind(),
        }[raiser]

    @app.task
    def strange(raiser: str) -> None:
        raise error(raiser)

    @app.task
    async def astrange(raiser: str) -> None:
        raise error(raiser)

    @app.task
    def fine() -> int:
        return 1

    @app.task
    async def afine() -> int:
        return 2

    with app.worker(slots=1):
        assert strange.start(raiser).error() is not None
        assert fine.start().result() == 1
        assert astrange.start(raiser).error() is not None
        assert afine.start().result() == 2


def test_an_error_with_a_constructor_of_its_own(new_app) -> None:
    class Picky(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__(f"{a}-{b}")

    app = new_app(errors=[Picky])

    @app.task
    def f() -> None:
        raise Picky(1, 2)

    @app.task
    def g() -> None:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte")

    with app.worker(slots=1):
        with pytest.raises((Picky, TaskFailed), match="1-2"):
            f.start().result()
        with pytest.raises((UnicodeDecodeError, TaskFailed), match="bad byte"):
            g.start().result()
