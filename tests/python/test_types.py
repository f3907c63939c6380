"""Typed arguments and results: every kind of API 2.5 arrives as what it was."""

import enum
import uuid
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple, Optional, TypedDict, Union, cast

import pydantic
import pytest

from dynatask import App, BadArguments, Batch, Job, Task


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Inner:
    when: datetime
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outer:
    inner: Inner
    path: Path
    price: Decimal
    maybe: Optional[int] = None


class Point(NamedTuple):
    x: int
    y: float = 0.5


class Movie(TypedDict, total=False):
    name: str
    year: int


NOW = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=timezone.utc)

VALUES: list[tuple[Any, Any]] = [
    (None, None),
    (bool, True),
    (int, 0),
    (int, -(2**63)),
    (int, 2**63 - 1),
    (Any, 2**64 - 1),
    (float, 1.5),
    (float, float("inf")),
    (str, "zażółć 🎈 \x00 end"),
    (str, ""),
    (bytes, bytes(range(256))),
    (list[int], [1, 2, 3]),
    (list[list[str]], [["a"], []]),
    (dict[str, int], {"a": 1}),
    (dict[int, str], {1: "a", -5: "b"}),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (set[int], {1, 2, 3}),
    (frozenset[str], frozenset({"a", "b"})),
    (datetime, NOW),
    (datetime, datetime(1900, 1, 1, tzinfo=timezone(timedelta(hours=-5, minutes=-30)))),
    (datetime, datetime(2024, 1, 1, 1, 1, 1)),
    (date, date(2024, 2, 29)),
    (time, time(1, 2, 3)),
    (timedelta, timedelta(days=3, microseconds=5)),
    (uuid.UUID, uuid.UUID(int=7)),
    (Decimal, Decimal("0.10")),
    (Decimal, Decimal("1E+400")),
    (Path, Path("/tmp/a b/ü")),
    (Colour, Colour.BLUE),
    (Level, Level.HIGH),
    (Outer, Outer(Inner(NOW, ["x"]), Path("p"), Decimal("1.5"), 3)),
    (list[Outer], [Outer(Inner(NOW), Path("p"), Decimal(1))]),
    (dict[str, Inner], {"k": Inner(NOW)}),
    (Point, Point(1, 2.5)),
    (Movie, {"name": "M", "year": 1931}),
    (Movie, {}),
    (Optional[int], None),
    (Optional[int], 5),
    (Union[int, str], "x"),
    (Union[int, str], 5),
    (Union[Inner, None], Inner(NOW)),
    (Literal["a", "b"], "b"),
    (Any, {"a": [1, None, b"x", 2.5, True]}),
    (object, [1, 2]),
]


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=lambda v: getattr(v, "__name__", str(v))[:40])
def test_round_trip(sqlite_url: str, kind: Any, value: Any) -> None:
    app = App("types", sqlite_url)

    def echo(v: kind) -> kind:
        if kind not in (Any, object):
            assert v == value and type(v) is type(value), (v, value)
        return v

    @app.task
    def root(v: kind) -> kind:
        return leaf.spawn(v).result()

    leaf = app.task(name="leaf")(echo)
    with app.worker(slots=1):
        got = root.start(value).result()
    assert got == value and type(got) is type(value)


def test_float_takes_an_int_and_nan_stays(app: App) -> None:
    @app.task
    def f(x: float) -> float:
        assert isinstance(x, float)
        return x

    with app.worker(slots=1):
        assert f.start(3).result() == 3.0
        got = f.start(float("nan")).result()
        assert got != got


def test_unannotated_parameters_take_plain_data(app: App) -> None:
    @app.task
    def f(a, b=2):  # type: ignore[no-untyped-def]
        return [a, b]

    with app.worker(slots=1):
        assert f.start({"x": [1]}).result() == [{"x": [1]}, 2]


def test_msgspec_struct(app: App) -> None:
    msgspec = pytest.importorskip("msgspec")
    Struct = msgspec.defstruct("Struct", [("a", int), ("b", list[str], [])])

    def f(s):  # type: ignore[no-untyped-def]
        assert isinstance(s, Struct)
        return s

    f.__annotations__ = {"s": Struct, "return": Struct}
    task = app.task(f)
    with app.worker(slots=1):
        assert task.start(Struct(a=1)).result() == Struct(a=1)


class Part(pydantic.BaseModel):
    id: uuid.UUID
    size: float = 1


class Model(pydantic.BaseModel):
    a: int
    when: datetime
    parts: list[Part] = []
    kind: str = pydantic.Field(default="csv", alias="type")


def test_pydantic_model(app: App) -> None:
    @app.task
    def f(m: Model, more: Part | None) -> list[Model]:
        assert isinstance(m, Model) and isinstance(more, Part)
        return [m, m.model_copy(update={"parts": [*m.parts, more]})]

    part = Part(id=uuid.uuid4())
    model = Model(a=1, when=NOW, parts=[part], type="png")
    with app.worker(slots=1):
        assert f.start(model, part).result() == [model, model.model_copy(update={"parts": [part, part]})]


def test_what_does_not_fit_a_pydantic_model(app: App) -> None:
    @app.task
    def f(m: Model) -> Part:
        return cast("Part", {"id": "no uuid"})

    with pytest.raises(BadArguments, match="'m'"):
        f.start(cast("Model", {"a": "many", "when": NOW}))
    with app.worker(slots=1), pytest.raises(TypeError, match="UUID"):
        f.start(Model(a=1, when=NOW)).result()


def test_strings_as_annotations(app: App) -> None:
    @app.task
    def f(p: "Point", ps: "list[Point]") -> "Point":
        assert isinstance(p, Point) and isinstance(ps[0], Point)
        return p

    with app.worker(slots=1):
        assert f.start(Point(1, 2.0), [Point(3, 4.0)]).result() == Point(1, 2.0)


def test_handles_travel(new_app: Callable[..., App]) -> None:
    app = new_app(keep="all")  # else the payload of a child is gone when its parent completes

    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def describe(t: Task[int], j: Job[int], ts: list[Task[int]]) -> list[str]:
        assert isinstance(t, Task) and isinstance(j, Job)
        return [t.id, j.id, *(x.id for x in ts)]

    @app.task
    def reads(t: Task[int]) -> int:
        return t.result()  # a foreign one, complete by now

    @app.task
    def root(j: Job[int]) -> list[object]:
        h = leaf.spawn(4)
        h.result()
        ids = describe.spawn(h, j, [h]).result()
        return [h, j, ids, reads.spawn(h).result()]

    @app.task
    def gives_job() -> Job[int]:
        return leaf.start(9)

    with app.worker(slots=1):
        other = leaf.using(id="other").start(1)
        other.result()
        job = root.start(other)
        h, j, ids, n = job.result()  # type: ignore[misc]
        assert ids == [f"{job.id}/1", "other", f"{job.id}/1"]
        assert n == 4
        assert isinstance(h, Task) and h.id == f"{job.id}/1" and h.result() == 4  # type: ignore[unreachable]
        assert isinstance(j, Job) and j.id == "other" and j.result() == 1  # type: ignore[unreachable]
        got = gives_job.start().result()
        assert isinstance(got, Job) and got.result() == 9


def test_a_batch_is_data_too(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root() -> list[Task[int]]:
        batch = leaf.map(range(3))
        assert isinstance(batch, Batch)
        batch.result()
        return list(batch)

    with app.worker(slots=1):
        job = root.start()
        assert [t.id for t in job.result()] == [f"{job.id}/{n}" for n in (1, 2, 3)]


def test_a_batch_may_be_annotated(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def read(batch: Batch[int], none: Batch[int]) -> list[int]:
        assert isinstance(batch, Batch) and len(batch) == 3 and len(none) == 0
        return [*batch.result(), *none.result()]

    @app.task
    def root() -> list[int]:
        batch, none = leaf.map(range(3)), leaf.map([])
        batch.result()
        return read.spawn(batch, none).result()

    with app.worker(slots=1):
        assert root.start().result() == [0, 1, 2]


def test_a_large_value_travels_whole(app: App) -> None:
    @app.task
    def f(data: bytes) -> bytes:
        return data[::-1]

    data = bytes(i * 7 % 251 for i in range(300_000)) * 10  # 3 MB: far above blob_min
    with app.worker(slots=1):
        assert f.start(data).result() == data[::-1]
        assert f.start(data).result() == data[::-1]


def test_plain_namedtuple_without_types(app: App) -> None:
    Pair = namedtuple("Pair", ["a", "b"])

    def f(p):  # type: ignore[no-untyped-def]
        return p.a + p.b

    f.__annotations__ = {"p": Pair, "return": int}
    task = app.task(f)
    with app.worker(slots=1):
        assert task.start(Pair(1, 2)).result() == 3
