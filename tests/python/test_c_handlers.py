"""C handlers beside Python ones, in one process: values, errors, waits both ways."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dynatask import App, BadArguments, Fatal, TaskCancelled, TaskFailed


@pytest.fixture
def mixed(app: App, plugin: Callable[..., str]) -> Iterator[App]:
    @app.task
    def py_double(n: int) -> int:
        return 2 * n

    with app.worker(slots=2, plugins=[plugin("acc")]):
        yield app


def far(app: App, name: str) -> Any:
    """A C type as an untyped extern."""
    if name in app.types:
        return app.types[name]

    def stub(*args: Any) -> Any: ...

    return app.extern(name)(stub)


def test_python_starts_c(mixed: App) -> None:
    @mixed.extern()
    def c_add(a: int, b: int) -> int: ...

    job = c_add.start(20, b=22)
    assert job.result() == 42
    tree = job.tree()
    assert (tree.language, tree.type) == ("c", "c_add")


def test_python_waits_for_c(mixed: App) -> None:
    @mixed.extern()
    def c_add(a: int, b: int) -> int: ...

    @mixed.task
    def unused() -> None: ...

    assert sum(c_add.start(n, n).result() for n in range(5)) == 20


def test_python_parent_of_c_children(app: App, plugin: Callable[..., str]) -> None:
    @app.extern()
    def c_add(a: int, b: int) -> int: ...

    @app.task
    def root(n: int) -> int:
        return sum(c_add.map(range(n), b=1).result())

    with app.worker(slots=2, plugins=[plugin("acc")]):
        assert root.start(300).result() == sum(range(300)) + 300


def test_c_parent_of_a_python_child(mixed: App) -> None:
    assert far(mixed, "c_calls_python").start(4).result() == 9


def test_c_recursion_on_two_slots(mixed: App) -> None:
    job = far(mixed, "c_fib").start(12)
    assert job.result() == 144
    counts = job.info().counts
    assert counts.added == counts.succeeded


def test_c_map_then_next(mixed: App) -> None:
    assert far(mixed, "c_map").start(50).result() == sum(range(50)) + 50 * 100
    assert far(mixed, "c_then").start().result() == 42
    assert far(mixed, "c_next").start().result() == [5, 10]


def test_c_values_are_data(mixed: App) -> None:
    values = [None, True, -5, 2**64 - 1, 1.5, "zażółć", b"\x00\xff", [1, [2]], {"a": {"b": None}}]
    assert far(mixed, "c_echo").start(*values).result() == values
    assert far(mixed, "c_kinds").start(-1, 2, math.pi, True, "s", b"y").result() == [-1, 2, math.pi, True, "s", b"y", -1]
    assert far(mixed, "c_kinds").start(-1, 2, 3, False, "s", b"y", None).result()[-1] == -1
    assert far(mixed, "c_kinds").start(-1, 2, 3, False, "s", b"y", 7).result()[2:] == [3.0, False, "s", b"y", 7]


def test_c_failure_in_python(mixed: App) -> None:
    error = far(mixed, "c_fail").start("red").error()
    assert isinstance(error, TaskFailed)
    assert error.language == "c" and error.message == "the word was red" and error.attempts == 1
    fatal = far(mixed, "c_fatal").start().error()
    assert fatal is not None and fatal.attempts == 1 and "never again" in fatal.message


def test_c_retries(mixed: App) -> None:
    assert far(mixed, "c_flaky").start().result() == 3


def test_python_failure_in_c(app: App, plugin: Callable[..., str]) -> None:
    @app.task
    def broken(word: str) -> None:
        raise ValueError(f"not {word}")

    @app.task(retries=9)
    def fatal(word: str) -> None:
        raise Fatal(word)

    with app.worker(slots=1, plugins=[plugin("acc")]):
        job = far(app, "c_error_of").start("broken", "blue")
        name, detail = job.result()
        assert name == "EFAILED" and "not blue" in detail and "ValueError" in detail
        assert job.info().state == "succeeded"  # seen
        assert far(app, "c_error_of").start("fatal", "x").result()[0] == "EFAILED"


def test_unknown_type_in_c(mixed: App) -> None:
    name, detail = far(mixed, "c_error_of").start("nobody_serves", "x").result()
    assert name == "ENOTFOUND" and "nobody_serves" in detail


def test_wrong_arguments_from_c(mixed: App) -> None:
    """c_add wants two integers and is given one text."""
    name, detail = far(mixed, "c_error_of").start("c_add", "x").result()
    assert name == "EARGS" and "c_add" in detail


@pytest.mark.parametrize("args", [(), (1,), (1, "x"), (1, 2, 3), (1.5, 2), (None, 1)])
def test_wrong_arguments_for_c_from_python(mixed: App, args: tuple[Any, ...]) -> None:
    with pytest.raises(BadArguments):
        far(mixed, "c_add").start(*args)


def test_argument_that_the_handler_asks_for_is_missing(mixed: App) -> None:
    error = far(mixed, "c_kinds").start(-1).error()  # no signature: found out in the handler
    assert error is not None and "u" in error.message


def test_result_that_does_not_fit_the_signature(mixed: App) -> None:
    error = far(mixed, "c_wrong_result").start().error()
    assert error is not None and error.type in ("BadArguments", "EARGS")


def test_c_handler_without_an_outcome(mixed: App) -> None:
    job = far(mixed, "c_silent").start()
    job.wait()  # a result of nothing or an error; not a hang
    assert job.info().state in ("succeeded", "failed")


def test_key_conflict_in_c(mixed: App) -> None:
    assert far(mixed, "c_conflict").start().result() == "ECONFLICT"


def test_cancel_of_a_busy_c_handler(mixed: App) -> None:
    job = far(mixed, "c_busy").start()
    for info in job:
        if info.counts.running:
            break
    assert job.cancel() is True
    assert isinstance(job.error(), TaskCancelled)
