"""How a job, its tasks and its tree look on a terminal, and as JSON.

Text is laid out here once; a terminal gets it with colour, anything else the
same lines without. NO_COLOR is honoured by rich. Nothing here reads.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from rich.text import Text

from dynatask import JobInfo, TaskFailed, TaskInfo

from .merged import STATES, Line, Merged
from .read import Option

SCHEMA = 1  # of the JSON; raised when a name changes its meaning or goes
BAR, BAR_LEAST = 24, 4
LIVE = ("running", "cancelling")
STYLES = {
    "running": "cyan",
    "parked": "blue",
    "closing": "blue",
    "ready": "default",
    "blocked": "dim",
    "scheduled": "dim",
    "succeeded": "green",
    "failed": "bold red",
    "cancelling": "yellow",
    "cancelled": "yellow",
    "skipped": "yellow",
}
READY = STATES.index("ready")
SHORT = {"python": "py", "c": "C"}


# ---- small words ---------------------------------------------------------------
def seconds(value: float) -> str:
    """About three digits: 0.3ms, 84ms, 1.2s, 3m05s, 2h07m."""
    if value < 0.01:
        return f"{value * 1000:.1f}ms"
    if value < 1:
        return f"{value * 1000:.0f}ms"
    if value < 60:
        return f"{value:.1f}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def spent(info: JobInfo | TaskInfo) -> float | None:
    """Seconds that it has run, or ran; None before it began."""
    if info.started_at is None:
        return None
    end = info.ended_at or datetime.now(timezone.utc)
    return max((end - info.started_at).total_seconds(), 0.0)


def took(info: JobInfo | TaskInfo) -> str:
    time = spent(info)
    return "" if time is None else seconds(time)


def clock(info: JobInfo) -> str:
    """How long it has run, or ran: 00:12.4."""
    hours, rest = divmod(spent(info) or 0.0, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{int(hours)}:{int(minutes):02d}:{rest:04.1f}" if hours else f"{int(minutes):02d}:{rest:04.1f}"


def ended(info: JobInfo) -> int:
    counts = info.counts
    return counts.succeeded + counts.failed + counts.cancelled + counts.skipped


def bar(done: int, of: int, width: int = BAR) -> Text:
    """Full only when all are done."""
    halves = done * 2 * width // of if of else 0
    full, half = divmod(halves, 2)
    return Text.assemble(("━" * full + "╸" * half, "green"), ("╌" * (width - full - half), "dim"))


def states(counts: Mapping[str, int]) -> Text:
    return Text(" ").join(Text(f"{name} {n}", STYLES.get(name, "")) for name, n in counts.items() if n)


def short(value: Any, width: int) -> str:
    """As Python writes it, cut."""
    text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"


# ---- the live tree ----------------------------------------------------------------
def header(info: JobInfo, lost: int = 0, width: int | None = None) -> Text:
    """Its first line. width: of the terminal; where it is narrow the bar is what gives way."""
    live = {s: getattr(info.counts, s) for s in ("running", "parked", "closing", "ready", "blocked", "scheduled")}
    bad = {s: getattr(info.counts, s) for s in ("failed", "cancelled", "skipped")}
    line = Text.assemble(
        (info.id, "bold"), " ", info.type, "  ", (info.state, STYLES.get(info.state, "")), " ", clock(info), "  ",
        f"done {ended(info)}/{info.counts.added} ",
    )  # fmt: skip
    rest = Text("  ")
    if info.paused:
        rest.append("paused ", "yellow")
    rest.append_text(states({**live, **bad}))
    if lost:
        rest.append(f"  lost attempts {lost}", "magenta")
    room = BAR if width is None else min(BAR, width - len(line) - len(rest))
    if room >= BAR_LEAST:
        line.append_text(bar(ended(info), info.counts.added, room))
    line.append_text(rest)
    line.rstrip()
    return line


def walk(line: Line, guide: str = "", last: bool = True) -> Iterator[tuple[str, Line]]:
    """Lines from the top, each with what stands before its name."""
    yield guide + ("└─ " if last else "├─ "), line
    below = list(line.below.values())
    for i, inner in enumerate(below):
        yield from walk(inner, guide + ("   " if last else "│  "), i == len(below) - 1)


def merged_lines(merged: Merged, languages: Mapping[str, str], unserved: Collection[str] = ()) -> list[Text]:
    """A line for each type at each place. unserved: types without a worker, which is told where one of them waits for it."""
    if merged.root is None:
        return []
    now = time.time()
    rows = [(guide + line.type + (f" ×{line.added}" if line.added > 1 else ""), line) for guide, line in walk(merged.root)]
    width = max(len(name) for name, _ in rows)
    out: list[Text] = []
    for name, line in rows:
        language = SHORT.get(languages.get(line.type, ""), "")
        text = Text.assemble(f"{name:{width}}  ", (f"{language:2}", "dim"), " ")
        text.append_text(states(line.named()))
        if line.errors:
            text.append(" (" + ", ".join(f"{error} ×{n}" for error, n in line.errors.most_common()) + ")", "red")
        if line.lost:
            text.append(f" lost {line.lost}", "magenta")
        if line.type in unserved and line.counts[READY]:
            text.append("  no worker serves it", "yellow")
        if line.added == 1 and line.since and not line.times.n:
            text.append(f"  {seconds(max(now - line.since / 1e6, 0))}", "dim")
        elif line.times.n == 1:
            text.append(f"  {seconds(line.times.percentile(0.5))}", "dim")
        elif line.times.n:
            text.append(f"  p50 {seconds(line.times.percentile(0.5))} p99 {seconds(line.times.percentile(0.99))}", "dim")
        out.append(text)
    return out


def job_lines(info: JobInfo, merged: Merged, languages: Mapping[str, str], unserved: Collection[str] = ()) -> list[Text]:
    return [header(info, merged.lost), *merged_lines(merged, languages, unserved)]


# ---- single tasks --------------------------------------------------------------------
def task_lines(task: TaskInfo, guide: str = "", last: bool = True) -> Iterator[Text]:
    language = SHORT.get(task.language, "")
    text = Text.assemble(
        guide, "└─ " if last else "├─ ", task.type, " ", (task.id, "bold"), f"  {language} ",
        (task.state, STYLES.get(task.state, "")), " ", (took(task), "dim"), " ",
        (", ".join(f"{name}={short(value, 32)}" for name, value in task.arguments.items()), "dim"),
    )  # fmt: skip
    if task.error is not None:
        text.append(f" {task.error.type}: {task.error.message[:80]}", "red")
    text.rstrip()
    yield text
    for i, child in enumerate(task.children):
        yield from task_lines(child, guide + ("   " if last else "│  "), i == len(task.children) - 1)


def fields(rows: Sequence[tuple[str, Any]]) -> Iterator[Text]:
    """Name and value, one a line; what is None or empty is left out."""
    shown = [(name, value) for name, value in rows if value not in (None, "", {}, [])]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        yield Text.assemble((f"{name:{width}}  ", "dim"), value if isinstance(value, Text) else str(value))


def result_field(state: str, kept: bool, result: Any) -> list[tuple[str, Any]]:
    """What a good end gave; why that cannot be shown."""
    if state != "succeeded":
        return []
    if not kept:
        return [("payload", "not kept: arguments and result left when its parent was complete; the option keep=all keeps them")]
    return [("result", short(result, 1000))]


def when(moment: datetime | None) -> str | None:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment is not None else None


def failure_lines(error: TaskFailed) -> Iterator[Text]:
    yield Text(f"{error.type}: {error.message}", "red")
    for line in error.traceback.rstrip().splitlines():
        yield Text(f"  {line}", "dim")


def job_fields(info: JobInfo) -> list[tuple[str, Any]]:
    return [
        ("job", info.id),
        ("type", info.type),
        ("state", Text(info.state + (", paused" if info.paused else ""), STYLES.get(info.state, ""))),
        ("started", when(info.started_at)),
        ("ended", when(info.ended_at)),
        ("took" if info.ended_at else "for", took(info)),
        ("done", f"{ended(info)}/{info.counts.added}"),
        ("tasks", states({s: getattr(info.counts, s) for s in STYLES if hasattr(info.counts, s)})),
        ("claimed", info.counts.claimed),
        ("tags", ", ".join(f"{name}={value}" for name, value in info.tags.items())),
    ]


def task_fields(task: TaskInfo) -> list[tuple[str, Any]]:
    return [
        ("task", task.id),
        ("type", task.type),
        ("language", task.language),
        ("state", Text(task.state, STYLES.get(task.state, ""))),
        ("attempt", task.attempt),
        ("worker", task.worker),
        ("started", when(task.started_at)),
        ("ended", when(task.ended_at)),
        ("took" if task.ended_at else "for", took(task)),
        ("arguments", "\n           ".join(f"{name} = {short(value, 200)}" for name, value in task.arguments.items())),
    ]


# ---- JSON ---------------------------------------------------------------------------
def to_json(value: Mapping[str, Any]) -> str:
    """One line. Bytes are base64; what JSON cannot say is its repr."""
    import msgspec

    return msgspec.json.encode({"schema": SCHEMA, **value}, enc_hook=repr).decode()


def error_json(error: TaskFailed | None) -> dict[str, Any] | None:
    if error is None:
        return None
    names = ("type", "message", "traceback", "language", "task_id", "attempts")
    return {name: getattr(error, name) for name in names}


def info_json(info: JobInfo | TaskInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "type": info.type,
        "state": info.state,
        "progress": list(info.progress),
        "started_at": info.started_at,
        "ended_at": info.ended_at,
        "error": error_json(info.error),
    }


def job_json(info: JobInfo) -> dict[str, Any]:
    return {**info_json(info), "paused": info.paused, "tags": info.tags, "counts": info.counts._asdict()}


def task_json(task: TaskInfo) -> dict[str, Any]:
    return {
        **info_json(task),
        "attempt": task.attempt,
        "worker": task.worker,
        "language": task.language,
        "arguments": task.arguments,
        "children": [task_json(child) for child in task.children],
    }


def line_json(line: Line, languages: Mapping[str, str]) -> dict[str, Any]:
    return {
        "type": line.type,
        "language": languages.get(line.type, ""),
        "tasks": line.added,
        "counts": line.named(),
        "errors": dict(line.errors),
        "lost": line.lost,
        "p50": line.times.percentile(0.5),
        "p99": line.times.percentile(0.99),
        "below": [line_json(inner, languages) for inner in line.below.values()],
    }


def any_json(value: Any) -> str:
    import msgspec

    return msgspec.json.encode(value, enc_hook=repr).decode()


# ---- tables ----------------------------------------------------------------------------
def table(heads: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Text:
    """Columns two blanks apart; the last one is as long as it is."""
    widths = [max([len(heads[i]), *(len(row[i]) for row in rows)]) for i in range(len(heads))]
    lines = [Text("  ").join(Text(f"{head:{width}}", "dim") for head, width in zip(heads, widths, strict=True))]
    for row in rows:
        cells = [cell.copy() if isinstance(cell, Text) else Text(cell) for cell in row]
        for cell, width in zip(cells[:-1], widths, strict=False):
            cell.pad_right(width - len(cell))
        lines.append(Text("  ").join(cells))
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def written(value: Any, unit: str) -> str:
    """A value of an option as one would write it: 30s, 1d, 64MiB; nothing where it is not given."""
    sizes = {"s": (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)), "bytes": (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))}
    for name, size in sizes.get(unit, ()):
        if value and value % size == 0:
            return f"{value // size:.0f}{name}"
    return "" if value is None else f"{value:g}s" if unit == "s" else str(value)


def option_table(options: Sequence[Option]) -> Text:
    rows = [(o.name, written(o.value, o.unit), o.source, written(o.default, o.unit), o.help) for o in options]
    return table(("name", "value", "source", "default", "help"), rows)


def job_table(infos: Sequence[JobInfo]) -> Text:
    rows = [
        (
            Text(info.id, "bold"),
            info.type,
            Text(info.state + (", paused" if info.paused else ""), STYLES.get(info.state, "")),
            f"{ended(info)}/{info.counts.added}",
            when(info.started_at) or "",
            took(info),
            Text(str(info.counts.failed or ""), "red"),
        )
        for info in infos
    ]
    return table(("job", "type", "state", "done", "started", "took", "failed"), rows)

