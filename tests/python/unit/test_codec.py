"""Annotations, signatures and arrays of arguments, without an engine."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Optional, TypedDict, Union

import msgspec
import pytest

from dynatask import BadArguments, UsageError
from dynatask.codec import Codec, Output, Shape, array_head, array_length


@dataclass
class Circle:
    radius: float


@dataclass
class Box:
    radius: float
    corners: list[int]


class Pair(NamedTuple):
    left: int
    right: Path


class Options(TypedDict):
    price: Decimal


class Color(enum.Enum):
    RED = "red"


codec = Codec(lambda text: text)


def shape(fn: Any) -> Shape:
    return Shape(fn.__name__, fn, codec, {})


def plain(path: str, offset: int) -> int: ...
def letters(a: float, b: bool, c: bytes, d: list[int], e: Optional[int] = None) -> None: ...
def middle(a: int | None, b: int) -> str: ...
def starred(*numbers: int, **names: str) -> int: ...
def keyworded(a: int, b: int = 2, *, c: int, d: int = 4) -> int: ...
def unannotated(a, b=1): ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("fn", "wanted"),
    [
        (plain, "path:s offset:i -> i"),
        (letters, "a:f b:b c:y d:v e:i? -> n"),
        (middle, "a:v b:i -> s"),
        (starred, "* -> i"),
        (unannotated, "a:v b:v? -> v"),
    ],
)
def test_signature(fn: Any, wanted: str) -> None:
    assert shape(fn).signature == wanted


def every(
    a: Circle | Box, b: Pair, c: Options, d: Path | None, e: list[Circle | Box], f: uuid.UUID, g: Color, h: datetime,
    i: Union[int, str], j: dict[str, tuple[int, ...]],
) -> Any: ...  # fmt: skip


def test_values_come_back_as_they_were() -> None:
    when = datetime(2024, 2, 29, 12, 30, 1, 500, tzinfo=timezone.utc)
    values = [
        Box(1.5, [1]), Pair(1, Path("/x")), {"price": Decimal("1.50")}, None, [Circle(1), Box(2, [])],
        uuid.UUID(int=7), Color.RED, when, "text", {"k": (1, 2)},
    ]  # fmt: skip
    s = shape(every)
    data, _ = s.pack(s.bind(tuple(values), {}))
    args, kwargs = s.unpack(data)
    assert list(args) == values
    assert kwargs == {}


def test_aware_times_keep_their_moment() -> None:
    def f(at: datetime) -> None: ...

    s = Shape("f", f, codec, {"datetime": datetime})
    local = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    (found,), _ = s.unpack(s.pack([local])[0])
    assert found == local


def test_keyword_only_and_defaults() -> None:
    s = shape(keyworded)
    data, _ = s.pack(s.bind((1,), {"c": 3}))
    assert s.unpack(data) == ((1, 2), {"c": 3, "d": 4})


def test_missing_arguments_with_defaults_stay_away() -> None:
    def f(a: int, b: int = 2) -> None: ...

    assert shape(f).unpack(msgspec.msgpack.encode([1])) == ((1,), {})


def test_any_number_of_arguments() -> None:
    s = shape(starred)
    data, _ = s.pack(s.bind((1, 2), {"x": "y"}))
    assert s.unpack(data) == ((1, 2), {"x": "y"})


@pytest.mark.parametrize(
    ("args", "kwargs", "names"),
    [
        ((), {}, "path"),
        (("a",), {}, "offset"),
        (("a", 1, 2), {}, "plain"),
        (("a", "b"), {}, "offset"),
        ((1, 1), {}, "path"),
        (("a", 2**70), {}, "plain"),
        (("a",), {"offse": 1}, "offse"),
        (("a", object()), {}, "offset"),
    ],
)
def test_what_does_not_fit_is_refused(args: tuple[Any, ...], kwargs: dict[str, Any], names: str) -> None:
    s = shape(plain)
    with pytest.raises(BadArguments, match=names) as caught:
        s.pack(s.bind(args, kwargs))
    assert caught.value.code == "EARGS"
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("data", [b"\x91\xa1a", b"\x92\xa1a\xa1b", b"\x93\xa1a\x01\x02", b"\xa1a", b"", b"\x92\xa1"])
def test_bytes_that_do_not_fit_are_refused(data: bytes) -> None:
    with pytest.raises(BadArguments):
        shape(plain).unpack(data)


def test_results_are_checked() -> None:
    s = shape(plain)
    assert s.give(7) == b"\x07"
    with pytest.raises(TypeError, match="plain"):
        s.give("seven")
    with pytest.raises(TypeError, match="no encoding"):
        shape(unannotated).give(object())
    assert shape(letters).give(None) == b""


def test_equal_sets_are_known_as_the_same_call() -> None:
    def f(names: set[str]) -> None: ...

    s = shape(f)
    forms = {s.pack([names])[1] or s.pack([names])[0] for names in ({"a", "b", "c"}, {"c", "b", "a"})}
    assert len(forms) == 1


class Child:
    def __init__(self, name: bytes) -> None:
        self.name = name

    def _identity(self) -> bytes:
        return self.name


def test_outputs_are_numbered_and_make_calls_differ() -> None:
    s = shape(plain)
    known: list[bytes] = []
    for child in (Child(b"a"), Child(b"b")):
        data, hashed = s.pack(["x", Output(child)], lambda output: 3)
        assert data == b"\x92\xa1x\xc7\x04\x02\x00\x00\x00\x03" or data == b"\x92\xa1x\xd6\x02\x00\x00\x00\x03"
        known.append(hashed)
    assert known[0] != known[1]
    with pytest.raises(BadArguments, match="output"):
        s.pack(["x", Output(Child(b"a"))])


def test_types_that_cannot_travel_are_named() -> None:
    class Opaque: ...

    def f(a: list[Opaque]) -> None: ...

    s = Shape("f", f, codec, {"Opaque": Opaque})
    with pytest.raises(BadArguments):
        s.pack([[Opaque()]])


def test_names_that_are_not_there_are_named() -> None:
    def f(a: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(UsageError, match="Nowhere"):
        Shape("f", f, codec, {})


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65535, 65536])
def test_array_heads(count: int) -> None:
    data = array_head(count) + b"\xc0" * count
    assert array_length(data) == count
    assert msgspec.msgpack.decode(data) == [None] * count
