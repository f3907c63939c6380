"""What can be said of a task type and of one call, and how it is handed to the core."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeGuard, cast

import msgspec

from .errors import BadArguments

if TYPE_CHECKING:
    from .handles import Task

__all__ = ["Backoff", "CallOptions", "Options", "TaskOptions", "Unique"]


@dataclass(frozen=True)
class Backoff:
    """Seconds between attempts: first, first * factor, .., at most max. jitter: anywhere from 0 to that."""

    first: float = 1
    factor: float = 2
    max: float = 300
    jitter: bool = True


@dataclass(frozen=True)
class Unique:
    """At most one of equal calls at a time.

    key: the parameters that make calls equal, "*" all. until: equal to one that
    does not run yet ("run"), or is not complete ("end"); keep: and so many
    seconds after. scope: in the app, or once in a job's life. over: what the
    second call is: that call's handle ("join"), a Conflict ("raise"), a skipped
    task ("drop"). same: other arguments under an equal key are a Conflict.
    """

    key: str | Sequence[str] = "*"
    until: Literal["run", "end"] = "end"
    keep: float = 0
    scope: Literal["app", "job"] = "app"
    over: Literal["join", "raise", "drop"] = "join"
    same: bool = False


class Options(TypedDict, total=False):
    """Of a type; a call may override them.

    retries: attempts after an error or a timeout. timeout: seconds of running
    per attempt; parked time is free. expires: seconds to begin within, else
    skipped. priority: -2 to 2, each step has four times the share. unique: True
    is Unique().
    """

    retries: int
    timeout: float
    expires: float
    priority: int
    unique: bool | Unique


class TaskOptions(Options, total=False):
    """Of a type. name: else the function's. backoff: seconds, a list of them, or a Backoff.
    retry_on: what is worth a retry, (Exception,). crashes: lost workers that a task survives, 3; 0: never run twice."""

    name: str
    backoff: float | Sequence[float] | Backoff
    retry_on: Sequence[type[Exception]]
    crashes: int


class CallOptions(Options, total=False):
    """Of one call.

    id: of a job, without / ! @. key: of a child in its parent, else it is known
    by its arguments. after: earlier siblings, skipped if one of these fails.
    delay: seconds; at: an aware datetime. may_fail: its failure counts as
    looked at. tags: of a job. unique: instead of the type's, False for none.
    """

    id: str
    key: str
    after: Sequence[Task[Any]]
    delay: float
    at: datetime
    may_fail: bool
    tags: Mapping[str, str]


def _number(name: str, value: object, least: float, most: float = math.inf, *, whole: bool = False) -> Any:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        span = f"from {least:g}" if most == math.inf else f"{least:g} to {most:g}"
        raise BadArguments(f"{name} is {value!r}: give {kind} {span}")
    return value if whole else float(value)


def _shared(options: Mapping[str, Any]) -> dict[str, Any]:
    """The checked values of Options but unique."""
    found: dict[str, Any] = {}
    if "retries" in options:
        found["retries"] = _number("retries", options["retries"], 0, 2**31 - 1, whole=True)
    if "timeout" in options:
        found["timeout"] = _number("timeout", options["timeout"], 0.001, 4_000_000)
    if "expires" in options:
        found["expires"] = _number("expires", options["expires"], 0, 1e10)
    if "priority" in options:
        found["priority"] = _number("priority", options["priority"], -2, 2, whole=True)
    return found


def published(options: Mapping[str, Any], params: Sequence[str]) -> bytes:
    """A type's options as the core keeps them. BadArguments names what does not fit."""
    for name in options.keys() - TaskOptions.__annotations__.keys() - Options.__annotations__.keys():
        raise BadArguments(f"a task type has no option {name!r}; it has {', '.join(_names(TaskOptions))}")
    if "name" in options and not _is_text(options["name"]):
        raise BadArguments(f"name is {options['name']!r}: give text")
    found: dict[str, Any] = {"language": "python", **_shared(options)}
    if "crashes" in options:
        found["crashes"] = _number("crashes", options["crashes"], 0, 2**31 - 1, whole=True)
    if "backoff" in options:
        found["backoff"] = _backoff(options["backoff"])
    rule = _unique_of(options.get("unique", False), params)
    if rule is not None:
        found["unique"] = rule
    found["params"] = list(params)
    return msgspec.msgpack.encode(found)


def _backoff(value: object) -> object:
    if isinstance(value, Backoff):
        numbers = [_number(f"backoff {n}", getattr(value, n), 0, 1e10) for n in ("first", "max")]
        numbers.insert(1, _number("backoff factor", value.factor, 1, 1e5))
        return [*numbers, bool(value.jitter)]
    if isinstance(value, (int, float)):
        return [_number("backoff", value, 0, 1e10)]
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise BadArguments(f"backoff is {value!r}: give seconds, a list of them, or Backoff(..)")
    delays = [_number("backoff", v, 0, 1e10) for v in cast("Sequence[object]", value)]
    if not 1 <= len(delays) <= 32:
        raise BadArguments(f"backoff has {len(delays)} delays: give 1 to 32, the last one repeats")
    return delays


def _unique_of(unique: object, params: Sequence[str]) -> dict[str, Any] | None:
    """The rule, checked; None: not unique."""
    if unique is True:
        unique = Unique()
    if unique is False:
        return None
    if not isinstance(unique, Unique):
        raise BadArguments(f"unique is {unique!r}: give True, False or Unique(..)")
    key: str | list[str] = "*" if unique.key == "*" else _keys(unique.key)
    for name in () if key == "*" else key:
        if name not in params:
            raise BadArguments(f"unique names {name!r}, which is no parameter; there are {', '.join(params) or 'none'}")
    for name, allowed in (("until", ("run", "end")), ("scope", ("app", "job")), ("over", ("join", "raise", "drop"))):
        if getattr(unique, name) not in allowed:
            raise BadArguments(f"unique has {name}={getattr(unique, name)!r}: give one of {', '.join(allowed)}")
    return {
        "key": key, "until": unique.until, "keep": _number("keep", unique.keep, 0, 1e10), "scope": unique.scope,
        "over": unique.over, "same": bool(unique.same),
    }  # fmt: skip


def _words(rule: Mapping[str, Any]) -> str:
    """A rule as a call's option, which is one text."""
    key, same = rule["key"], "true" if rule["same"] else "false"
    names = key if isinstance(key, str) else ",".join(key)
    return f"key={names} until={rule['until']} keep={rule['keep']:.6f} scope={rule['scope']} over={rule['over']} same={same}"


def _keys(key: object) -> list[str]:
    if not isinstance(key, (str, Sequence)) or isinstance(key, bytes):
        raise BadArguments(f"unique has key={key!r}: give names of parameters")
    return [key] if isinstance(key, str) else list(cast("Sequence[str]", key))


def retry_on(options: Mapping[str, Any]) -> tuple[type[Exception], ...]:
    """The error classes that are worth a retry."""
    classes = options.get("retry_on", (Exception,))
    if isinstance(classes, type):
        classes = (classes,)
    found = tuple(cast("Sequence[object]", classes))
    for cls in found:
        if not (isinstance(cls, type) and issubclass(cls, Exception)):
            raise BadArguments(f"retry_on has {cls!r}: give classes of Exception")
    return cast("tuple[type[Exception], ...]", found)


def of_call(options: Mapping[str, Any], params: Sequence[str]) -> dict[str, str]:
    """A call's options as C takes them, but `after`. params: of its type. BadArguments names what does not fit."""
    found: dict[str, str] = {}
    for name, value in _shared(options).items():
        found[name] = str(value) if isinstance(value, int) else f"{value:.6f}"
    for name, value in options.items():
        if name in ("id", "key"):
            if not _is_text(value):
                raise BadArguments(f"{name} is {value!r}: give text")
            if name == "id" and len(value.encode("utf-8", "replace")) > 200:
                raise BadArguments(f"the id {value[:50]!r}.. has over 200 bytes")
            found[name] = value
        elif name == "delay":
            found[name] = f"{_number(name, value, 0, 1e10):.6f}"
        elif name == "at":
            if not isinstance(value, datetime) or value.tzinfo is None:
                raise BadArguments(f"at is {value!r}: give a datetime with a time zone")
            found[name] = f"{max(value.timestamp(), 0):.6f}"
        elif name == "may_fail":
            if not isinstance(value, bool):
                raise BadArguments(f"may_fail is {value!r}: give True or False")
            found[name] = "true" if value else "false"
        elif name == "tags":
            if not isinstance(value, Mapping):
                raise BadArguments(f"tags is {value!r}: give a mapping of text to text")
            for tag, text in cast("Mapping[object, object]", value).items():
                if not _is_text(tag) or not isinstance(text, str) or (text and not _is_text(text)):
                    raise BadArguments(f"the tag {tag!r}={text!r}: give text for both")
                found[f"tag.{tag}"] = text
        elif name == "unique":
            rule = _unique_of(value, params)
            found[name] = "false" if rule is None else _words(rule)
        elif name not in found and name != "after":
            raise BadArguments(f"a call has no option {name!r}; it has {', '.join(_names(CallOptions))}")
    return found


def _is_text(value: object) -> TypeGuard[str]:
    """Text of at least one sign, that C can hold."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _names(options: Any) -> list[str]:
    return sorted({n for cls in (options, Options) for n in cls.__annotations__})


def of_app(options: Mapping[str, Any]) -> dict[str, str]:
    """Options of App and Worker as C takes them."""
    found: dict[str, str] = {}
    for name, value in options.items():
        if isinstance(value, bool):
            found[name] = "true" if value else "false"
        elif isinstance(value, (int, float, str)):
            found[name] = str(value)
        else:
            raise BadArguments(f"the option {name} is {value!r}: give text or a number")
    return found
