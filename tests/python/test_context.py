"""context(): who is running, and that it exists in a task only."""

import logging
import threading

import pytest

from dynatask import App, NotInTask, as_completed, children, context, then


def test_fields(app: App) -> None:
    @app.task
    def child() -> list[object]:
        me = context()
        assert me.parent is not None
        return [me.task.id, me.job.id, me.parent.id, me.attempt, me.version, me.cancelled]

    @app.task
    def root() -> list[object]:
        assert context().parent is None
        return child.spawn().result()

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == [f"{job.id}/1", job.id, f"{job.id}/0", 1, 1, False]


def test_outside_of_a_task(app: App) -> None:
    @app.task
    def f() -> None: ...

    def scope() -> None:
        with children():
            pass

    for use in (context, scope, lambda: then(f), lambda: list(as_completed([]))):
        with pytest.raises(NotInTask):
            use()
    assert issubclass(NotInTask, Exception)


def test_a_plain_call_of_a_task_is_outside(app: App) -> None:
    @app.task
    def f() -> str:
        return context().task.id

    with pytest.raises(NotInTask):
        f()


def test_a_thread_of_a_handler_is_outside(app: App) -> None:
    @app.task
    def f() -> str:
        got: list[str] = []

        def other() -> None:
            try:
                got.append(context().task.id)
            except NotInTask:
                got.append("outside")

        t = threading.Thread(target=other)
        t.start()
        t.join()
        return got[0]

    with app.worker(slots=1):
        assert f.start().result() == "outside"


def test_after_the_handler_ended_its_context_is_dead(app: App) -> None:
    kept: list[object] = []

    @app.task
    def leaf() -> None: ...

    @app.task
    def f() -> None:
        kept.append(context())

    with app.worker(slots=1):
        f.start().result()
        me = kept[0]
        for use in (lambda: me.progress(1, 2), lambda: me.check_cancelled()):  # type: ignore[attr-defined]
            try:
                use()
            except Exception as e:  # noqa: BLE001
                assert type(e).__module__.startswith("dynatask")


def test_log_records_carry_the_task(app: App, caplog: pytest.LogCaptureFixture) -> None:
    @app.task
    def f() -> None:
        context().log.warning("hello from %s", "f")

    with caplog.at_level(logging.INFO), app.worker(slots=1):
        job = f.start()
        job.result()
    record = next(r for r in caplog.records if r.getMessage() == "hello from f")
    assert record.dynatask_job == job.id  # type: ignore[attr-defined]
    assert record.dynatask_type == "f"  # type: ignore[attr-defined]
    assert record.dynatask_attempt == 1  # type: ignore[attr-defined]
    assert str(record.dynatask_task).split("/")[-1] == "0"  # type: ignore[attr-defined]
