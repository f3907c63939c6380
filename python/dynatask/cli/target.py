"""What the words on a command line mean: APP, F, and the arguments of F.

APP is `module:app`, a Python file or `FILE.py:app`, or the bare name of an app, which is
enough for readers and for workers that only load plugins. Not given: option
`app` of the configuration. F is `FILE.py:function`, `module:function`,
`APP::type`, or the name of a task type of the configured app.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import click

from dynatask import App, BadArguments, Job, TaskType

from . import read
from .failures import Failure, usage

NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")

given: set[str] = set()  # options that stand on the command line


def give(option: str, value: str) -> None:
    """Stronger than the environment, files and code, and inherited by child processes."""
    given.add(option)
    os.environ[f"DYNATASK_{option.upper()}"] = value


def configured(option: str) -> tuple[str, str] | None:
    """Its value and where it stands: the environment, else dynatask.toml, else [tool.dynatask] in pyproject.toml."""
    variable = f"DYNATASK_{option.upper()}"
    value = os.environ.get(variable)
    if value or (value is not None and option in given):
        return value, f"--{option}" if option in given else variable
    for file, path in ((Path("dynatask.toml"), ()), (Path("pyproject.toml"), ("tool", "dynatask"))):
        if not file.is_file():
            continue
        table = toml(file)
        for key in path:
            table = table.get(key, {})
        value = table.get(option)
        if isinstance(value, str):
            return value, str(file)
        if value is not None:
            raise usage(f"{file}: {option} is a text, in quotes", "dynatask config")
    return None


def toml(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib

        try:
            return tomllib.loads(file.read_text())
        except tomllib.TOMLDecodeError as error:
            raise usage(f"{file} is not TOML: {error}", "dynatask config") from error
    # 3.10 has no TOML reader; the core has one of its own, and these are one-line texts.
    found = dict(re.findall(r'^\s*(app|url)\s*=\s*"([^"]*)"', file.read_text(), re.MULTILINE))
    return {**found, "tool": {"dynatask": found}}


def address(app: App) -> tuple[str, str]:
    """The engine's URL and where it stands, without opening anything. A password is not shown, nor what goes to librdkafka."""
    url, source = configured("url") or ((app.url, "code") if app.url else ("sqlite:jobs.db", "default"))
    shown = re.sub(r"((?:://|%3a%2f%2f)[^:@/?&]*?)(?::|%3a)[^@/?&]*(@|%40)", r"\1:***\2", url, flags=re.IGNORECASE)
    return re.sub(r"([?&]kafka\.[^=&]*=)[^&]*", r"\1***", shown), source


def shared(app: App) -> None:
    """Refuses an engine that ends with this process."""
    refuse_alone(*address(app))


def refuse_alone(url: str, source: str) -> None:
    if url.startswith("memory:"):
        text = f"memory: (from {source}) is seen by one process alone: name an engine that others share, as --url sqlite:jobs.db, or use `run`"
        raise usage(text, "dynatask run --help")


def load_app(spec: str | None = None) -> App:
    if spec is None and (found := configured("app")):
        spec = found[0]
    if not spec:
        raise usage("no app is named: give APP, set DYNATASK_APP, or write app = \"module:app\" into dynatask.toml")
    place, colon, name = spec.rpartition(":")
    if spec.endswith(".py"):
        return app_of(load_file(Path(spec)), None)
    if colon:
        return app_of(load_file(Path(place)) if place.endswith(".py") else load_module(place), name)
    if not NAME.fullmatch(spec):
        raise usage(f"'{spec}' is no APP: it is module:app, a file that ends in .py, or an app's name")
    return App(spec)


def load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise usage(f"there is no file {path}", "ls")
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if not name.isidentifier() or spec is None or spec.loader is None:
        raise usage(f"{path} cannot be imported: its name is no Python name")
    # As `python FILE` would have it; its other processes import it by name.
    sys.path.insert(0, str(path.resolve().parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise broken(str(path), error) from error
    return module


def load_module(name: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise usage(f"there is no module {error.name}, in this folder or installed: write module:NAME, or FILE.py", "ls") from error
        raise broken(name, error) from error


def broken(what: str, error: BaseException) -> Failure:
    import traceback

    text, place = str(error), ""
    if isinstance(error, SyntaxError):
        text, place = error.msg, f"{error.filename}:{error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        last = next(frame for frame in reversed(frames) if not frame.filename.startswith("<frozen "))
        place = f"{last.filename}:{last.lineno}"
    try_ = f"python {what}" if what.endswith(".py") else f"python -c 'import {what}'"
    return usage(f"{what} cannot be imported: {type(error).__name__}: {text} ({place})", try_)


def app_of(module: ModuleType, name: str | None) -> App:
    apps = {key: value for key, value in vars(module).items() if isinstance(value, App)}
    if name is not None:
        if name not in apps:
            raise usage(f"{module.__name__} has no App named '{name}'; it has {', '.join(apps) or 'none'}")
        return apps[name]
    if "app" in apps:
        return apps["app"]
    if not apps:
        raise usage(f"{module.__name__} makes no App: name the module or file that does")
    if len({id(app) for app in apps.values()}) > 1:
        which = " or ".join(f"{module.__name__}:{key}" for key in apps)
        raise usage(f"{module.__name__} has {len(apps)} apps: say which, {which}")
    return next(iter(apps.values()))


def load_type(spec: str) -> tuple[App, TaskType[..., Any]]:
    if "::" in spec:
        place, _, name = spec.partition("::")
        app = load_app(place)
        return app, read.type_of(app, name)
    if ":" in spec:
        place, _, attribute = spec.rpartition(":")
        module = load_file(Path(place)) if place.endswith(".py") else load_module(place)
        found: object = getattr(module, attribute, None)
        if not isinstance(found, TaskType):
            names = [key for key, value in vars(module).items() if isinstance(value, TaskType)]
            raise usage(f"{place} has no task type '{attribute}'; it has {', '.join(names) or 'none'}")
        function = cast("TaskType[..., Any]", found)
        return read.app_of(function), function
    app = load_app()
    return app, read.type_of(app, spec)


def start(spec: str, f: TaskType[..., Any], words: Sequence[str]) -> Job[Any]:
    """A job of F, which was written `spec`, with the words as its arguments."""
    args, named = bound(f, words)
    try:
        return f.start(*args, **named)
    except BadArguments as error:
        if not str(error).startswith(f"{f.name}(): "):
            raise
        shape = "".join(" " + shape_of(p) for p in read.parameters(f).values())
        raise usage(str(error), f"{click.get_current_context().command_path} {spec}{shape}") from error


def shape_of(parameter: inspect.Parameter) -> str:
    """As usages have it: NAME, [NAME] where it has a default."""
    name = parameter.name.upper()
    if parameter.kind == parameter.VAR_POSITIONAL:
        return f"[{name}]..."
    if parameter.kind == parameter.KEYWORD_ONLY:
        name = f"{parameter.name}={name}"
    return name if parameter.default is parameter.empty else f"[{name}]"


def bound(f: TaskType[..., Any], words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Words to arguments: `name=value` where F has such a parameter, else by place. A parameter that takes text
    gets the word as it is; others get its JSON value, and the word itself where it is no JSON."""
    parameters = read.parameters(f)
    by_place = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p for p in parameters.values() if p.kind == p.VAR_POSITIONAL), None)
    args: list[Any] = []
    named: dict[str, Any] = {}
    for word in words:
        name, eq, value = word.partition("=")
        if eq and name in parameters:
            named[name] = value_of(parameters[name], value)
            continue
        taker = by_place[len(args)] if len(args) < len(by_place) else rest
        args.append(value_of(taker, word))
    return args, named


def value_of(parameter: inspect.Parameter | None, word: str) -> Any:
    import msgspec

    kind = parameter.annotation if parameter is not None else Any
    if kind is str:
        return word
    if kind is bytes:
        return os.fsencode(word)
    try:
        value = msgspec.json.decode(word)
    except msgspec.DecodeError:
        value = word
    if kind is inspect.Parameter.empty or kind is Any:
        return value
    try:
        return msgspec.convert(value, kind, strict=False)
    except (msgspec.ValidationError, TypeError):
        return value  # the call itself says what is wrong with it
