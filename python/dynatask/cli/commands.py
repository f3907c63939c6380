"""The commands of `dynatask`: names, options and help. What they do is beside this file."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import failures, out
from .failures import usage

if TYPE_CHECKING:
    from dynatask import App

F = TypeVar("F", bound=Callable[..., Any])

APP_HELP = "module:app, a .py file, or an app's name; else DYNATASK_APP, else `app` of dynatask.toml."


class Hinted(click.Command):
    """Knows of every usage error which command it is of, for the hint."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


class Calling(Hinted):
    """Its words are arguments, so one may be a negative number; else what begins with - is an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        free = len(args) - args.index("--") - 1 if "--" in args else 0  # so many words at the end are taken as they are
        left = super().parse_args(ctx, args)
        words: list[str] = [ctx.params["f"], *ctx.params["words"]]
        for word in words[: len(words) - free]:
            if word.startswith("-") and word != "-" and not re.match(r"-\.?\d", word):
                raise click.UsageError(f"No such option '{word}'; an argument that begins with - goes after --", ctx)
        return left


class Commands(Hinted, click.Group):
    """In the order in which they are needed."""

    command_class = Hinted

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader has seen enough
            out.to_nothing()
            return failures.OK
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            known = failures.of_error(error, f"{ctx.command_path} {ctx.invoked_subcommand} --help")
            if known is None:
                raise
            raise known from error


def reads(command: F) -> F:
    """The options of every command that only looks."""
    return acts(click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")(command))


def acts(command: F) -> F:
    command = click.option("--url", metavar="URL", help="The engine, like sqlite:jobs.db; else as configured.")(command)
    return click.option("--app", "-a", "app_spec", metavar="APP", help=APP_HELP)(command)


def give(app_spec: str | None, url: str | None) -> None:
    """What was said on the command line goes before the rest, here and in child processes."""
    from . import target

    for option, value in (("app", app_spec), ("url", url)):
        if value is not None:
            target.give(option, value)


def open_app(app_spec: str | None, url: str | None) -> App:
    from . import target

    give(app_spec, url)
    return target.load_app()


def open_shared(app_spec: str | None, url: str | None) -> App:
    """An app whose jobs other processes see: the workers', or this one when it looks."""
    from . import target

    app = open_app(app_spec, url)
    target.shared(app)
    return app


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dynatask", prog_name="dynatask", message="%(prog)s %(version)s")
@acts
@click.pass_context
def cli(ctx: click.Context, app_spec: str | None, url: str | None) -> int:
    """Jobs that grow while they run.

    APP and the engine may be named before the command or after it.

    Exit codes: 0 ok, or drained; 1 the job failed; 2 usage; 3 not found; 4 cancelled; 5 the engine cannot be reached; 6 timeout.
    """
    give(app_spec, url)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(failures.USAGE)
    return failures.OK


# ---- serve -------------------------------------------------------------------------
@cli.command()
@click.argument("place", metavar="[APP]", required=False)
@click.option("--plugin", "plugins", multiple=True, metavar="X.so", help="Load C handlers; repeatable.")
@click.option("--slots", multiple=True, metavar="N|TYPE=N", help="Handlers at once, in all or of a type; repeatable.")
@click.option("--processes", type=click.IntRange(1, 256), metavar="N", help="Processes for Python handlers.")
@click.option("--types", metavar="A,B", help="Serve only these.")
@click.option("--grace", metavar="TIME", help="For handlers to end after SIGTERM, like 30s.")
@click.option("--reload", is_flag=True, help="Begin anew when code changes; for development.")
@acts
def worker(
    place: str | None,
    app_spec: str | None,
    plugins: Sequence[str],
    slots: Sequence[str],
    processes: int | None,
    types: str | None,
    grace: str | None,
    reload: bool,
    url: str | None,
) -> int:
    """Run the tasks of APP until SIGTERM or Ctrl-C.

    These drain: no new tasks, running ones get the grace time, the rest is given back. A second one stops at once, and
    loses nothing either.
    """
    options: dict[str, Any] = {"plugins": list(plugins)}
    each: dict[str, int] = {}
    for word in slots:
        name, eq, number = word.rpartition("=")
        if not number.isdecimal() or int(number) < 1 or (eq and not name):
            raise usage(f"--slots {word}: give a number from 1, or TYPE=number", "dynatask worker --help")
        if eq:
            each[name] = int(number)
        else:
            options["slots"] = int(number)
    wanted = [name for name in (types or "").split(",") if name]
    if types is not None and not wanted:
        raise usage("--types names no type", "dynatask worker --help")
    if each:
        options["types"] = {name: each.get(name, 1) for name in wanted or each}
    elif wanted:
        options["types"] = wanted
    if processes is not None:
        options["processes"] = processes
    if grace is not None:
        options["grace"] = grace
    if reload:
        from . import reload as reloading
        from . import target

        give(place if place is not None else app_spec, url)
        if (found := target.configured("url")) is not None:
            target.refuse_alone(*found)  # which no change of code mends
        return reloading.run([word for word in sys.argv[1:] if word != "--reload"], plugins)
    app = open_shared(place if place is not None else app_spec, url)
    if not app.types and not plugins:
        raise usage(f"the app {app.name} has no handlers here: name its module or file, or a --plugin", "dynatask worker --help")
    worker = app.worker(**options)
    worker.begun = lambda served: click.echo(
        f"dynatask worker {os.getpid()} of app {app.name} serves {', '.join(served)}; SIGTERM drains", err=True
    )
    worker.run()
    return failures.OK


# ---- start ----------------------------------------------------------------------------
@cli.command(cls=Calling, context_settings={"ignore_unknown_options": True})
@click.argument("f", metavar="F")
@click.argument("words", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--plugin", "plugins", multiple=True, metavar="X.so", help="Load C handlers; repeatable.")
@acts
def run(f: str, words: Sequence[str], plugins: Sequence[str], app_spec: str | None, url: str | None) -> int:
    """Start F, run its tasks here, and print the result as JSON.

    F is FILE.py:function, module:function, APP::type, or a task type of the configured app. ARGS go by place, or as name=value.
    """
    from . import target, view

    give(app_spec, url)
    app, function = target.load_type(f)
    with app.worker(plugins=list(plugins)):
        job = target.start(f, function, words)
        try:
            result = job.result()
        except KeyboardInterrupt:
            told = "interrupted: handlers that run get their grace to end, Ctrl-C again stops at once"
            click.echo(f"{told}\n  job {job.id} is kept: dynatask worker, or dynatask cancel {job.id}", err=True)
            raise click.exceptions.Exit(failures.INTERRUPTED) from None
    out.data(view.any_json(result))
    return failures.OK


@cli.command(cls=Calling, context_settings={"ignore_unknown_options": True})
@click.argument("f", metavar="F")
@click.argument("words", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--id", "job_id", metavar="ID", help="The job's id. The same id and call again: the same job.")
@acts
def start(f: str, words: Sequence[str], job_id: str | None, app_spec: str | None, url: str | None) -> None:
    """Start F as a job for the workers, and print its id. F and ARGS as for `run`."""
    from . import target

    give(app_spec, url)
    app, function = target.load_type(f)
    target.shared(app)
    if job_id is not None:
        function = function.using(id=job_id)
    out.data(target.start(f, function, words).id)


# ---- look --------------------------------------------------------------------------------
@cli.command()
@click.argument("query", nargs=-1)
@click.option("--limit", "-n", metavar="N", default=20, show_default=True, type=click.IntRange(1, 10_000), help="At most so many.")
@reads
def jobs(query: Sequence[str], limit: int, as_json: bool, app_spec: str | None, url: str | None) -> None:
    """List jobs, the newest first.

    QUERY narrows: type:NAME, state:NAME, since:1h.
    """
    from . import read, view

    found, more, cut = read.jobs(open_shared(app_spec, url), " ".join(query), limit)
    if as_json:
        out.json({"jobs": [view.job_json(info) for info in found], "more": more or cut})
    elif not found:
        out.say("no jobs" + (f" for {' '.join(query)}" if query else " yet; dynatask start F ARGS makes one"))
    else:
        out.say(view.job_table(found))
    if more and not as_json:
        click.echo(f"the newest {limit}, there are more: -n {min(limit * 5, 10_000)} shows more, type:NAME, state:NAME or since:1h narrow", err=True)
    elif cut and not as_json:
        click.echo("older jobs than the newest 10,000 were not looked at", err=True)


@cli.command()
@click.argument("id")
@reads
def show(id: str, as_json: bool, app_spec: str | None, url: str | None) -> None:
    """Show a job, or a task by its id JOB/N, with its result or error."""
    from . import read, view

    app = open_shared(app_spec, url)
    if "/" in id:
        task, payload = read.task(app, id), read.payload(app, id)
        if as_json:
            out.json({"task": {**view.task_json(task), **payload._asdict()}})
        else:
            rows = [*view.task_fields(task), *view.result_field(task.state, *payload)]
            out.say(*view.fields(rows), *(view.failure_lines(task.error) if task.error else ()))
        return
    job = read.job(app, id)
    info, payload = job.info(), read.payload(app, f"{id}/0")
    if as_json:
        out.json({"job": {**view.job_json(info), **payload._asdict()}})
    else:
        rows = [*view.job_fields(info), *view.result_field(info.state, *payload)]
        out.say(*view.fields(rows), *(view.failure_lines(info.error) if info.error else ()))


@cli.command()
@click.argument("id")
@click.option("--timeout", type=click.FloatRange(0), metavar="S", help="Give up after so many seconds, with exit code 6.")
@click.option("--depth", metavar="N", default=4, show_default=True, type=click.IntRange(1, 50), help="Levels before recursion folds.")
@reads
def watch(id: str, timeout: float | None, depth: int, as_json: bool, app_spec: str | None, url: str | None) -> int:
    """Follow a job to its end; the exit code says how it ended.

    Siblings of one type are one line. `done` counts what is known so far: a job may grow. Ctrl-C leaves the job alone.
    """
    from . import read, target
    from . import watch as watching

    app = open_shared(app_spec, url)
    if target.address(app)[0].startswith("kafka:"):
        read.until_taken_in(app, whole(id), timeout)
    job = read.job(app, whole(id))
    try:
        info = watching.as_json(job, timeout) if as_json else watching.watch(app, job, timeout, depth)[0]
    except KeyboardInterrupt:
        click.echo(f"interrupted: job {id} goes on; dynatask watch {id}, or dynatask cancel {id}", err=True)
        return failures.INTERRUPTED
    except BrokenPipeError:  # no code of the contract is true: it has not ended
        out.to_nothing()
        return failures.UNREAD
    if info.state == "failed" and not as_json:
        click.echo(f"  try: dynatask show {info.id}", err=True)
    return failures.END_CODES[info.state]


@cli.command()
@click.argument("id")
@click.option("--depth", metavar="N", type=click.IntRange(1, 50), help="So many levels.  [default: 4; with --expand 3]")
@click.option("--expand", is_flag=True, help="Each task on a line of its own, the first 1,000.")
@reads
def tree(id: str, depth: int | None, expand: bool, as_json: bool, app_spec: str | None, url: str | None) -> None:
    """Print a job's tree of tasks, siblings of one type merged."""
    from . import read, view
    from .merged import Merged

    app = open_shared(app_spec, url)
    job = read.job(app, whole(id))
    info = job.info()
    if expand:
        root = job.tree(depth or 3, 1000)
        if as_json:
            out.json({"job": view.job_json(info), "tree": view.task_json(root)})
        else:
            out.say(view.header(info), *view.task_lines(root))
        return
    merged = Merged(depth or 4)
    merged.finish(read.rows(app, job.id), info.counts.added)
    kinds = read.kinds(app)()
    if as_json:
        out.json({"job": view.job_json(info), "merged": view.line_json(merged.root, kinds.languages) if merged.root else None})
    else:
        out.say(*view.job_lines(info, merged, *kinds))


def whole(id: str) -> str:
    """The id of a job. A Failure: of a task."""
    job, slash, _ = id.partition("/")
    if not slash:
        return id
    context = click.get_current_context()
    raise usage(f"{id} is a task's id: `{context.info_name}` takes its job's, {job}", f"{context.command_path} {job}")


# ---- act ------------------------------------------------------------------------------------
@cli.command()
@click.argument("id")
@acts
def cancel(id: str, app_spec: str | None, url: str | None) -> None:
    """Cancel a job, or a task by its id JOB/N, and all below.

    Handlers that run are asked to end.
    """
    from . import read

    app = open_shared(app_spec, url)
    job = id.partition("/")[0]
    out.say(f"cancelling {id}: dynatask watch {job}" if read.job(app, id).cancel() else f"{id} had ended; nothing changed")


# ---- check ----------------------------------------------------------------------------------
@cli.command()
@reads
def config(as_json: bool, app_spec: str | None, url: str | None) -> None:
    """Print every option: its value, where that came from, its default.

    The command line goes before DYNATASK_<OPTION>, that before dynatask.toml or [tool.dynatask] of pyproject.toml, and
    the code comes last.
    """
    from . import read, view

    options = read.config(open_app(app_spec, url))
    if as_json:
        out.json({"options": [option._asdict() for option in options]})
    else:
        out.say(view.option_table(options))


@cli.command()
@reads
def doctor(as_json: bool, app_spec: str | None, url: str | None) -> int:
    """Check the engine, its files or server, its workers and types.

    Each line is ok, warn or bad, and says what to do. Exit code 1: something is bad; 5: the engine cannot be opened.
    """
    from . import doctor as checking

    return checking.run(lambda: open_app(app_spec, url), as_json)
