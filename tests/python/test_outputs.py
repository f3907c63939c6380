"""`output` in the arguments of many: of map and starmap as of spawn, and where there are no siblings an error."""

from collections.abc import Callable

import pytest

from dynatask import App, BadArguments, ChildrenFailed, children


@pytest.fixture
def outputs(app: App) -> App:
    @app.task
    def double(n: int) -> int:
        if n < 0:
            raise ValueError("below zero")
        return n * 2

    @app.task
    def add(a: int, b: int = 1) -> int:
        return a + b

    return app


def run(app: App, body: Callable[[], object]) -> object:
    @app.task
    def root() -> object:
        return body()

    with app.worker(slots=2):
        return root.start().result(timeout=60)


def test_items_that_are_outputs(outputs: App) -> None:
    double, add = outputs.types["double"], outputs.types["add"]

    def body() -> object:
        a, b = double.spawn(1), double.spawn(2)
        mixed = add.map([7, 8, a.output, 9, b.output], b=10)
        pairs = add.starmap([(a.output, b.output), (1, 2), (b.output, a.output)])
        assert (len(mixed), mixed[2].result()) == (5, 12)
        return [mixed.result(), pairs.result(), add.map(range(3), b=a.output).result(), mixed.reduce(add).result()]

    assert run(outputs, body) == [[17, 18, 12, 19, 14], [6, 3, 6], [2, 3, 4], 80]


def test_they_belong_to_the_block_around_them(outputs: App) -> None:
    double, add = outputs.types["double"], outputs.types["add"]

    def body() -> object:
        a = double.spawn(1)
        with children():
            batch = add.map([3, a.output])
        assert all(task.wait(0) for task in batch)
        bad = double.using(may_fail=True).spawn(-1)
        late = add.using(may_fail=True).map([1, bad.output])
        with pytest.raises(ChildrenFailed) as caught:
            late.result()
        return [batch.result(), caught.value.failed]

    assert run(outputs, body) == [[4, 3], 1]


def test_a_job_has_no_siblings(outputs: App) -> None:
    double, add = outputs.types["double"], outputs.types["add"]

    def body() -> object:
        a = double.spawn(1)
        for call in (lambda: add.start(a.output), lambda: add.start_map([a.output]), lambda: add.start_map([1], b=a.output)):
            with pytest.raises(BadArguments, match=r"only in the arguments of spawn, map, starmap and then: elsewhere give what result\(\) returns"):
                call()
        return a.result()

    assert run(outputs, body) == 2
