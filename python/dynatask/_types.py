"""What the app knows of one task type, whatever way it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import options as opts
from ._core import TypeRow
from .codec import Shape
from .errors import BadArguments

if TYPE_CHECKING:
    from .app import App


class TypeCore:
    """One task type of an app. Its annotations are read at the first use, when all names are there."""

    def __init__(self, app: App, fn: Callable[..., Any], options: Mapping[str, Any], local: Mapping[str, Any], *, served: bool) -> None:
        if not callable(fn):
            raise BadArguments(f"{fn!r} is no function")
        self.app = app
        self.fn = fn
        self.name: str = options.get("name") or fn.__name__
        self.served = served  # else its handler is in C, or in another program
        self.is_async = inspect.iscoroutinefunction(fn)
        self.options = dict(options)
        self.retry_on = opts.retry_on(options)
        self.params = list(inspect.signature(fn).parameters)
        opts.published(options, self.params)  # what is wrong is said where it is written
        # Only names of a function's own scope need keeping, and only for text annotations.
        self._local: Mapping[str, Any] = local if any(isinstance(a, str) for a in getattr(fn, "__annotations__", {}).values()) else {}
        self.declared = False
        self.max_payload = 64 << 20  # as configured, once the app is open
        self.callback_of: list[str] | None = None  # for on_complete: the root types, none: all

    @cached_property
    def shape(self) -> Shape:
        shape = Shape(self.name, self.fn, self.app.codec, self._local)
        self._local = {}
        return shape

    def row(self) -> TypeRow:
        """As it is published."""
        return TypeRow(self.name, self.shape.signature, opts.published(self.options, self.shape.names), 1, 1)
