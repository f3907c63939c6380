"""What the commands print, all of it: text with colour where that is wanted, and JSON.

Names, arguments and errors are a user's own bytes: what would steer the
terminal is shown as a sign. BrokenPipeError tells that the reader has gone;
any other error of standard output is a Failure. Each call flushes, so that
nothing is left to fail when Python ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_KEPT = "\n\t"
_SIGNS = {
    **{c: chr(0x2400 + c) for c in range(0x20) if chr(c) not in _KEPT},  # ␛ for escape
    **dict.fromkeys([*range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\N{REPLACEMENT CHARACTER}"),
}


def clean(text: str) -> str:
    """The same length, and nothing that a terminal obeys."""
    return text.translate(_SIGNS)


def clean_text(line: Any) -> Text:
    from rich.text import Text

    text = line.copy() if isinstance(line, Text) else Text(str(line))
    text.plain = clean(text.plain)
    return text


def console() -> Console:
    """Of standard output; as wide as the terminal, and colours as NO_COLOR and TERM have it."""
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:  # rich's own exits with 1, which here is a job that failed
            raise BrokenPipeError

    return Ours(highlight=False)


def say(*lines: Any) -> None:
    """Each on a line of its own, however long it is."""
    there = console()
    _write(lambda: [there.print(clean_text(line), markup=False, soft_wrap=True) for line in lines])


def plain(*lines: Any) -> None:
    """The same without colour, for one who reads line by line."""
    _write(lambda: [print(clean_text(line).plain) for line in lines])


def data(text: str) -> None:
    """For programs: as it is."""
    _write(lambda: print(text))


def json(value: dict[str, Any]) -> None:
    from . import view

    data(view.to_json(value))


def _write(put: Callable[[], Any]) -> None:
    try:
        put()
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]  (closed by the shell)
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        from .failures import USAGE, Failure

        to_nothing()
        raise Failure(f"standard output cannot be written: {error.strerror}", USAGE, "df -h") from error


def to_nothing() -> None:
    """From now on standard output is thrown away: what is still in buffers too."""
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
