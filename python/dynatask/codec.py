"""How values travel: annotations to msgpack and back.

A call's arguments are one msgpack array, a result is one msgpack value; what
may be in them is what msgspec knows (dataclass, NamedTuple, TypedDict,
datetime, UUID, Enum, Decimal, Optional, Union, ..), and here also paths and
handles. Decoding is strict: a value that does not fit its annotation is an
error, never converted by guess. Nothing is ever pickled.

Two extension types are ours: 1 is a handle ('J' and a job's id, 'T' and a
task's), 2 stands for the result of the call's dep of that number, and is
filled in before the handler sees it.

This file knows neither the core nor the classes of handles: they come in as
`Portable` and by the function that makes one from its text.
"""

# pyright: reportPrivateUsage=false
# (the files of this package share what is private to it)

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import PurePath
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from .errors import BadArguments, UsageError

EXT_HANDLE = 1
EXT_OUTPUT = 2

_ENCODE_ERRORS = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)
_DECODE_ERRORS = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)
_SCALARS = frozenset({int, str, bytes, float, bool, type(None)})
_LETTERS = {int: "i", float: "f", bool: "b", str: "s", bytes: "y", type(None): "n", None: "n"}
_PLACE = re.compile(r"^(.*?)(?: - at `\$(?:\[(\d+)\])?(.*)`)?$", re.DOTALL)


class Portable:
    """What encodes as data of ours: a handle. Subclasses say as what."""

    def _portable(self) -> object:
        """Text for extension type 1, or another value that encodes."""
        raise NotImplementedError

    @classmethod
    def _adopt(cls, value: object, codec: Codec, arguments: tuple[Any, ...]) -> object:
        """The decoded value as this class, its result of type arguments[0]. TypeError: it is none."""
        raise NotImplementedError


class Output:
    """Stands for a task's result in the arguments of a sibling's call."""

    __slots__ = ("task",)

    def __init__(self, task: Any) -> None:
        self.task = task

    def __repr__(self) -> str:
        return f"{self.task!r}.output"


class _AnyInstance(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return True  # msgspec asks whether what the hook gave is of the class


class _Choice(metaclass=_AnyInstance):
    """A union that msgspec cannot decode by itself, as one of two dataclasses. Subclassed for each."""

    options: tuple[Any, ...] = ()


class Codec:
    """Encoders and decoders of one app. Safe to use from many threads."""

    def __init__(self, revive: Callable[[str], Any]) -> None:
        """revive makes a handle of its text ('J' or 'T', and the id)."""
        self._revive = revive
        self.encoder = msgspec.msgpack.Encoder(enc_hook=self._encode)
        # Sets and dicts of equal content encode alike, so that a re-run's call is known again.
        self._ordered = msgspec.msgpack.Encoder(enc_hook=self._encode, order="deterministic")
        self.any = self.decoder(Any)

    # ---- values ------------------------------------------------------------------

    def encode(self, value: object, what: str) -> bytes:
        """One value. BadArguments: there is no encoding for it; `what` names it."""
        try:
            return self.encoder.encode(value)
        except _ENCODE_ERRORS as error:
            raise BadArguments(f"{what} cannot be encoded: {error}") from error

    def decoder(self, annotation: Any) -> msgspec.msgpack.Decoder[Any]:
        """A decoder for a resolved annotation. UsageError: values of that type cannot travel."""
        try:
            wanted = self._rewrite(annotation)
            return msgspec.msgpack.Decoder(wanted, ext_hook=self._extension, dec_hook=self._decode)
        except (TypeError, ValueError) as error:
            raise UsageError(f"values of {describe(annotation)} cannot travel: {error}") from error

    def _encode(self, value: object) -> object:
        if isinstance(value, PurePath):
            return str(value)
        if isinstance(value, Portable):
            data = value._portable()
            return msgspec.msgpack.Ext(EXT_HANDLE, data.encode()) if isinstance(data, str) else data
        if isinstance(value, Output):
            raise TypeError("an output stands for a result only in the arguments of spawn, map, starmap and then: elsewhere give what result() returns")
        if _is_model(type(value)):
            return cast("Any", value).model_dump(by_alias=True, round_trip=True)
        raise TypeError(f"no encoding for {type(value).__qualname__}")

    def _extension(self, code: int, data: memoryview) -> object:
        if code != EXT_HANDLE:
            raise ValueError(f"unknown extension type {code}")
        return self._revive(bytes(data).decode())

    def _decode(self, wanted: Any, value: object) -> object:
        cls: Any = get_origin(wanted) or wanted
        if issubclass(cls, _Choice):
            return self._choose(cls, value)
        if issubclass(cls, PurePath):
            if isinstance(value, str):
                return cls(value)
        elif issubclass(cls, Portable):
            return cls._adopt(value, self, get_args(wanted))
        elif _is_model(cls):
            return cls.model_validate(value)
        elif isinstance(value, cls):
            return value
        raise TypeError(f"Expected `{cls.__qualname__}`, got `{type(value).__qualname__}`")

    def _choose(self, choice: type[_Choice], value: object) -> object:
        """The first option that fits; of two records, one that knows all the keys."""
        second: list[object] = []
        for option in choice.options:
            try:
                found: object = msgspec.convert(value, self._rewrite(option), dec_hook=self._decode)
            except _DECODE_ERRORS:
                continue
            if not isinstance(value, dict) or cast("dict[object, object]", value).keys() <= _fields(option):
                return found
            second.append(found)
        if not second:
            raise TypeError(f"Expected `{' | '.join(describe(o) for o in choice.options)}`, got `{value!r:.80}`")
        return second[0]

    def _rewrite(self, annotation: Any) -> Any:
        """The annotation with a choice in the place of each union that msgspec refuses."""
        origin, parts = get_origin(annotation), get_args(annotation)
        if not parts or origin is typing.Literal or (isinstance(origin, type) and issubclass(origin, Portable)):
            return annotation
        if origin is Union or origin is types.UnionType:
            try:
                msgspec.msgpack.Decoder(annotation, dec_hook=self._decode)
                return annotation
            except TypeError:
                return _AnyInstance("Choice", (_Choice,), {"options": parts})
        if origin is typing.Annotated:
            return typing.Annotated[(self._rewrite(parts[0]), *parts[1:])]
        changed = tuple(p if p is ... else self._rewrite(p) for p in parts)
        if changed == parts:
            return annotation
        generic: Any = origin if isinstance(origin, type) else None
        return generic[changed] if generic is not None else annotation.copy_with(changed)

    # ---- the arguments of a call ----------------------------------------------------

    def ordered(self, values: object) -> bytes:
        """The encoding that equal arguments share, whatever the order of their sets and dicts."""
        try:
            return self._ordered.encode(values)
        except TypeError:  # it knows no order of keys that are not text: theirs is the caller's
            return self.encoder.encode(values)


def _has_set(value: Any) -> bool:
    if isinstance(value, (set, frozenset)):
        return True
    if isinstance(value, (dict, list, tuple)):
        return any(map(_has_set, cast("dict[Any, Any]", value).values() if isinstance(value, dict) else cast("list[Any]", value)))
    return any(_has_set(getattr(value, str(name), None)) for name in _fields(type(value)))


def _is_model(cls: Any) -> bool:
    """A model of pydantic, which is not asked for where nobody uses it. (Its dataclasses travel as others do.)"""
    return hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_validate")


def _fields(annotation: Any) -> set[object]:
    cls: Any = get_origin(annotation) or annotation
    if dataclasses.is_dataclass(cls):
        return {f.name for f in dataclasses.fields(cls)}
    return set(getattr(cls, "__struct_fields__", None) or getattr(cls, "__annotations__", ()))


def describe(annotation: Any) -> str:
    """An annotation as people write it."""
    return annotation.__qualname__ if type(annotation) is type else str(annotation).replace("typing.", "")


def letter(annotation: Any) -> str:
    """The annotation in a signature: i f b s y n, v for all others; `?` after it where None fits too."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Union or origin is types.UnionType:
        rest = [p for p in parts if p is not type(None)]
        if len(rest) == 1 and len(parts) == 2:
            known = _LETTERS.get(rest[0]) if isinstance(rest[0], type) else None
            return f"{known or 'v'}?"
        return "v"
    try:
        return _LETTERS.get(annotation, "v")
    except TypeError:  # an annotation without a hash
        return "v"


class Shape:
    """What a handler takes and gives: its signature, and the arrays of its arguments.

    The array has the positional parameters in their order, then the
    keyword-only ones, then one map for `**kwargs`, then what `*args` takes.
    """

    def __init__(self, name: str, fn: Callable[..., Any], codec: Codec, local: Mapping[str, Any]) -> None:
        self.name = name
        self.codec = codec
        self._signature = inspect.signature(fn)
        hints = _hints(name, fn, local)
        P = inspect.Parameter
        params = list(self._signature.parameters.values())
        positional = [p for p in params if p.kind in (P.POSITIONAL_ONLY, P.POSITIONAL_OR_KEYWORD)]
        self.keywords = [p.name for p in params if p.kind is P.KEYWORD_ONLY]
        self._fixed = positional + [p for p in params if p.kind is P.KEYWORD_ONLY]
        self._star = next((p.name for p in params if p.kind is P.VAR_POSITIONAL), None)
        self._stars = next((p.name for p in params if p.kind is P.VAR_KEYWORD), None)
        self.names = [p.name for p in self._fixed]
        self.types: list[Any] = [hints.get(n, Any) for n in self.names]
        self._npositional = len(positional)
        self._required = sum(p.default is P.empty for p in self._fixed)
        self.result: Any = hints.get("return", Any)
        self.result_decoder = codec.decoder(self.result)
        self.list_decoder = codec.decoder(list[self.result])
        self._codec = codec
        self._exact = [t if t in (int, str, bytes, bool, float) else None for t in self.types]
        self._one_by_one = [codec.decoder(t) for t in self.types]
        self._decoders: dict[int, msgspec.msgpack.Decoder[Any]] = {}
        self._star_decoder = codec.decoder(hints.get(self._star, Any)) if self._star else None
        self._stars_decoder = codec.decoder(dict[str, hints.get(self._stars, Any)]) if self._stars else None
        self._plain = not (self._star or self._stars or self.keywords)

    @cached_property
    def gaps_decoder(self) -> msgspec.msgpack.Decoder[Any]:
        """As list_decoder, with None where there is no result."""
        return self._codec.decoder(list[Union[self.result, None]])

    @property
    def signature(self) -> str | None:
        """As C writes it, "path:s offset:i? -> i". None: C has no words for it (names, more than 32)."""
        if self._star or self._stars:
            return f"* -> {letter(self.result)}"
        if len(self.names) > 32 or not all(n.isascii() and len(n) <= 100 for n in self.names):
            return None
        kinds: list[str] = []
        optional = True
        for p, annotation in zip(reversed(self._fixed), reversed(self.types)):  # optional ones stand last
            kind = letter(annotation)
            optional = optional and (kind.endswith("?") or p.default is not inspect.Parameter.empty)
            if optional:
                kind = kind.rstrip("?") + "?"
            elif kind.endswith("?"):
                kind = "v"
            kinds.append(f"{p.name}:{kind}")
        return " ".join([*reversed(kinds), "->", letter(self.result)])

    # ---- the caller's side ------------------------------------------------------------

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """The call's arguments in the order of the array. BadArguments: names or count do not fit."""
        if self._plain and not kwargs and len(args) == len(self._fixed):
            return list(args)
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadArguments(f"{self.name}(): {error}") from None
        bound.apply_defaults()
        values = [bound.arguments[n] for n in self.names]
        if self._stars:
            values.append(bound.arguments[self._stars])
        if self._star:
            values.extend(bound.arguments[self._star])
        return values

    def pack(self, values: list[Any], number: Callable[[Output], int] | None = None) -> tuple[bytes, bytes]:
        """The array, and what its call is known by if that is another (else empty).

        number gives an output its place among the deps; None: no outputs here.
        BadArguments: a value does not fit its parameter, or has no encoding.
        """
        sure = len(values) == len(self._exact)
        found: Any
        plain = True
        if sure:
            for i, wanted in enumerate(self._exact):
                found = cast(Any, type(values[i]))
                if found is not wanted:
                    if wanted is float and found is int:
                        values[i] = float(values[i])
                    else:
                        sure = False
                if found not in _SCALARS:
                    plain = False
        else:
            plain = False
        if plain:
            data = self.codec.encode(values, f"{self.name}(): an argument")
            if not sure:
                self._decode(data)
            return data, b""
        return self._pack_any(values, number)

    def pack_alone(self, values: list[Any], number: Callable[[Output], int] | None = None) -> bytes:
        """The array, in a form that equal calls share though their sets come in another order. As pack."""
        data, known = self.pack(values, number)
        return known if known and _has_set(values) else data

    def _pack_any(self, values: list[Any], number: Callable[[Output], int] | None) -> tuple[bytes, bytes]:
        """Containers, own types and outputs: each argument is checked by decoding it as the handler will."""
        outputs: list[Output] = []

        def hook(value: object) -> object:
            if isinstance(value, Output) and number is not None:
                outputs.append(value)
                return msgspec.msgpack.Ext(EXT_OUTPUT, number(value).to_bytes(4, "big"))
            return self.codec._encode(value)

        encoder = msgspec.msgpack.Encoder(enc_hook=hook)
        parts: list[bytes] = []
        for i, value in enumerate(values):
            label = self.names[i] if i < len(self.names) else f"#{i + 1}"
            before = len(outputs)
            try:
                part = encoder.encode(value)
            except BadArguments:
                raise
            except _ENCODE_ERRORS as error:
                raise BadArguments(f"{self.name}(): argument {label!r} cannot be encoded: {error}") from error
            if len(outputs) == before:  # what stands for a result is checked when that is there
                self._check(i, label, part)
            parts.append(part)
        data = array_head(len(parts)) + b"".join(parts)
        if outputs:
            known = blake2b(data, digest_size=16)
            for output in outputs:
                known.update(output.task._identity())
            return data, known.digest()
        ordered = self.codec.ordered(values)
        return data, b"" if ordered == data else ordered

    def common(self, first: object, rest: Mapping[str, Any]) -> list[bytes] | None:
        """The arguments after the first, encoded one by one, for calls that differ in an int there. None: it takes none, or others are outputs."""
        if not self._npositional or self._star or self.types[0] not in (int, Any):
            return None
        values = self.bind((first,), rest)
        if any(isinstance(v, Output) for v in values):
            return None
        self.pack(list(values))
        return [self.codec.encode(v, f"{self.name}(): an argument") for v in values[1:]]

    def _check(self, i: int, label: str, part: bytes) -> None:
        if i < len(self._one_by_one):
            decoder = self._one_by_one[i]
        else:
            decoder = self._stars_decoder if self._stars and i == len(self.names) else self._star_decoder
        if decoder is None:
            return
        try:
            decoder.decode(part)
        except _DECODE_ERRORS as error:
            raise BadArguments(f"{self.name}(): argument {label!r}: {error}") from None

    # ---- the handler's side -------------------------------------------------------------

    def unpack(self, data: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments from an array. BadArguments: it does not fit."""
        values = self._decode(data)
        if self._plain:
            return values, {}
        cut = self._npositional
        args, kwargs = values[:cut], dict(zip(self.names[cut:], values[cut : len(self.names)]))
        rest = values[len(self.names) :]
        if self._stars and rest:
            kwargs.update(rest[0])
            rest = rest[1:]
        return (*args, *rest), kwargs

    def _decode(self, data: Any) -> tuple[Any, ...]:
        count = array_length(data)
        if self._star or self._stars:
            return self._decode_rest(data)
        decoder = self._decoders.get(count)
        try:
            if decoder is None:
                if not self._required <= count <= len(self._fixed):
                    raise BadArguments(self._count_error(count))
                wanted: Any = tuple[tuple(self.types[:count])] if count else tuple[()]
                decoder = self._decoders[count] = self.codec.decoder(wanted)
            return decoder.decode(data)
        except BadArguments:
            raise
        except _DECODE_ERRORS as error:
            raise BadArguments(f"{self.name}(): {self._place(error)}") from None

    def _decode_rest(self, data: Any) -> tuple[Any, ...]:
        try:
            raws: list[msgspec.Raw] = msgspec.msgpack.decode(data, type=list[msgspec.Raw])
        except _DECODE_ERRORS as error:
            raise BadArguments(f"{self.name}(): {error}") from None
        if len(raws) < self._required:
            raise BadArguments(self._count_error(len(raws)))
        values: list[Any] = []
        for i, raw in enumerate(raws):
            decoders: Sequence[Any] = self._one_by_one
            if i < len(decoders):
                decoder = decoders[i]
            else:
                decoder = self._stars_decoder if self._stars and i == len(decoders) else self._star_decoder
            if decoder is None:
                raise BadArguments(self._count_error(len(raws)))
            try:
                values.append(decoder.decode(raw))
            except _DECODE_ERRORS as error:
                raise BadArguments(f"{self.name}(): argument {i + 1}: {error}") from None
        return tuple(values)

    def _count_error(self, count: int) -> str:
        least, most = self._required, len(self._fixed)
        wanted = f"{least}" if least == most else f"{least} to {most}"
        return f"{self.name}(): takes {wanted} arguments ({', '.join(self.names)}), {count} were given"

    def _place(self, error: Exception) -> str:
        """msgspec's place "$[1].x" as the parameter that it means."""
        match = _PLACE.match(str(error))
        if match is None or match[2] is None:
            return str(error)
        return f"argument {self.names[int(match[2])]!r}{match[3]}: {match[1]}"

    def give(self, value: object) -> bytes:
        """A result as data, empty for None. TypeError: it does not fit its annotation, or has no encoding."""
        if value is None and self.result in (None, type(None), Any):
            return b""
        try:
            data = self.codec.encoder.encode(value)
            if type(value) is not self.result or type(value) not in _SCALARS:
                self.result_decoder.decode(data)
        except _ENCODE_ERRORS as error:
            raise TypeError(f"the result of {self.name}() does not fit {describe(self.result)}: {error}") from None
        return data


def _hints(name: str, fn: Callable[..., Any], local: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return get_type_hints(fn, localns=dict(local), include_extras=True)
    except NameError as error:
        raise UsageError(f"the annotations of {name}() cannot be read: {error}; define it before the first use") from None


def array_head(count: int) -> bytes:
    """The first bytes of a msgpack array of so many values."""
    if count < 16:
        return bytes((0x90 | count,))
    return b"\xdc" + count.to_bytes(2, "big") if count < 65536 else b"\xdd" + count.to_bytes(4, "big")


def array_length(data: Any) -> int:
    """How many values a msgpack array has. BadArguments: it is none."""
    view = memoryview(data)
    first = view[0] if len(view) else 0
    if isinstance(first, bytes):  # a view of C chars
        view = view.cast("B")
        first = view[0]
    if first & 0xF0 == 0x90:
        return first & 0x0F
    if first == 0xDC and len(view) >= 3:
        return int.from_bytes(view[1:3], "big")
    if first == 0xDD and len(view) >= 5:
        return int.from_bytes(view[1:5], "big")
    raise BadArguments("the arguments of a call are a msgpack array")
