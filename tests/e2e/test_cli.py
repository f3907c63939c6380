"""The command line, as a shell sees it: output, JSON, exit codes, hints."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("DTASK_BUILD", ROOT / "build"))

PROGRAM = '''
from dataclasses import dataclass
from dynatask import App

app = App("shop")

@dataclass
class Cart:
    items: list[str]
    total: float

@app.task
def add(a: int, b: int = 10) -> int:
    return a + b

@app.task
def greet(name: str, loud: bool = False) -> str:
    return name.upper() if loud else name

@app.task
def weigh(cart: Cart) -> float:
    return cart.total * len(cart.items)

@app.task
def broken(n: int) -> None:
    raise ValueError(f"no {n}")

@app.task
def nil() -> None:
    pass

@app.task
def held() -> None:
    print("begun", flush=True)
    open("gate").close()

@app.task
def hostile() -> None:
    raise ValueError("\x1b]0;title\x07 \u202e")

@app.task
def many(n: int) -> int:
    return sum(add.map(range(n)).result())

@app.task
def mixed(n: int) -> int:
    for i in range(n):
        broken.using(may_fail=True).spawn(i)
    return many.spawn(n).result()
'''


class Shell:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("DYNATASK_")} | {"DYNATASK_APP": "shop.py"}
        (folder / "shop.py").write_text(PROGRAM)

    def command(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "dynatask", *map(str, words)]

    def __call__(self, *words: object, code: int = 0) -> str:
        done = subprocess.run(self.command(*words), cwd=self.folder, env=self.env, capture_output=True, text=True)
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        self.err = done.stderr
        return done.stdout

    def json(self, *words: object) -> dict:
        return json.loads(self(*words, "--json"))

    def said(self, *words: object, code: int) -> str:
        """Its standard error; each refusal names the next command to try, and shows no traceback."""
        self.out = self(*words, code=code)
        assert "Traceback" not in self.err
        assert "  try: " in self.err
        return self.err

    def refused(self, *words: object, code: int = 2) -> str:
        """The same, of a command that printed nothing else."""
        told = self.said(*words, code=code)
        assert self.out == ""
        return told


@pytest.fixture
def sh(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def worker(sh: Shell):
    """A worker process on the shell's app."""
    running: list[subprocess.Popen[str]] = []

    def start(*words: object) -> subprocess.Popen[str]:
        running.append(subprocess.Popen(sh.command("worker", *words), cwd=sh.folder, env=sh.env, text=True))
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


# ---- start and end -------------------------------------------------------------------
def test_run_prints_the_result_as_json(sh: Shell) -> None:
    assert sh("run", "shop.py::add", "1") == "11\n"
    assert sh("run", "shop.py:add", "1") == "11\n"
    assert sh("run", "shop:add", "1", "b=2") == "3\n"
    assert sh("run", "add", "b=-1", "-5") == "-6\n"
    assert sh("run", "greet", "12", "loud=true") == '"12"\n'
    assert sh("run", "weigh", '{"items": ["a", "b"], "total": 1.5}') == "3.0\n"
    assert sh("run", "many", 100) == f"{sum(range(100)) + 1000}\n"


def test_run_of_a_failing_task(sh: Shell) -> None:
    said = sh.refused("run", "broken", 7, code=1)
    assert "ValueError" in said and "no 7" in said
    assert "dynatask show" in said


def test_start_work_and_look(sh: Shell, worker) -> None:
    assert sh("start", "mixed", 5, "--id", "m-1") == "m-1\n"
    assert sh("start", "mixed", 5, "--id", "m-1") == "m-1\n"
    assert "m-1" in sh.refused("start", "mixed", 6, "--id", "m-1")
    assert sh.json("show", "m-1")["job"]["counts"]["added"] == 1
    process = worker()
    out = sh("watch", "m-1")
    # root, many, 5 add, 5 broken
    assert "succeeded" in out and "done 12/12" in out
    assert "broken ×5" in out and "failed 5" in out and "ValueError ×5" in out and "add ×5" in out and "py" in out
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0

    shown = sh.json("show", "m-1")
    assert shown["schema"] == 1
    assert shown["job"]["state"] == "succeeded"
    assert shown["job"]["counts"]["failed"] == 5
    assert "m-1" in sh("show", "m-1")

    merged = sh.json("tree", "m-1")["merged"]
    assert (merged["type"], merged["tasks"], merged["language"]) == ("mixed", 1, "python")
    below = {line["type"]: line for line in merged["below"]}
    assert below["broken"]["counts"] == {"failed": 5}
    assert below["broken"]["errors"] == {"ValueError": 5}
    assert below["many"]["below"][0]["tasks"] == 5
    assert 0 < below["broken"]["p50"] <= below["broken"]["p99"]

    root = sh.json("tree", "m-1", "--expand", "--depth", 5)["tree"]
    assert (root["id"], root["type"], len(root["children"])) == ("m-1/0", "mixed", 6)
    failed = next(child for child in root["children"] if child["type"] == "broken")
    assert failed["arguments"] == {"n": 0}
    assert "ValueError" in sh("show", failed["id"])
    task = sh.json("show", failed["id"])["task"]
    assert (task["state"], task["error"]["message"], task["attempt"]) == ("failed", "no 0", 1)

    listed = sh.json("jobs", "type:mixed", "state:succeeded")["jobs"]
    assert [job["id"] for job in listed] == ["m-1"]
    assert sh.json("jobs", "state:failed")["jobs"] == []
    assert "m-1" in sh("jobs")


def test_a_list_of_jobs_says_that_it_was_cut(sh: Shell) -> None:
    for n in range(3):
        sh("start", "add", n)
    assert len(sh("jobs", "-n", 2).splitlines()) == len(sh("jobs", "-n", 3).splitlines()) - 1
    assert sh.err == ""
    sh("jobs", "-n", 2)
    assert sh.err == "the newest 2, there are more: -n 10 shows more, type:NAME, state:NAME or since:1h narrow\n"
    cut = sh.json("jobs", "-n", 2)
    assert sh.err == "" and cut["more"] and len(cut["jobs"]) == 2
    assert not sh.json("jobs", "-n", 3)["more"]


def test_watch_says_how_it_ended(sh: Shell, worker) -> None:
    worker()
    assert sh("start", "broken", 1, "--id", "b") == "b\n"
    assert "ValueError" in sh("watch", "b", code=1)
    told = [json.loads(line) for line in sh("watch", "b", "--json", code=1).splitlines()]
    assert told[-1]["state"] == "failed" and told[-1]["error"]["type"] == "ValueError"


def test_cancel_and_timeout(sh: Shell) -> None:
    sh("start", "add", 1, "--id", "c")
    assert "c is still running" in sh.said("watch", "c", "--timeout", 0, code=6)
    sh("cancel", "c")
    sh("watch", "c", code=4)
    assert "nothing changed" in sh("cancel", "c")
    assert sh.json("show", "c")["job"]["state"] == "cancelled"


def test_live_tree_on_a_terminal(sh: Shell, worker) -> None:
    worker()
    sh("start", "many", 300, "--id", "t")
    main, side = pty.openpty()
    process = subprocess.Popen(
        sh.command("watch", "t"), cwd=sh.folder, env=sh.env | {"TERM": "xterm", "COLUMNS": "120"}, stdout=side, stdin=side
    )
    os.close(side)
    out = b""
    while True:
        try:
            block = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        out += block
    os.close(main)
    assert process.wait() == 0
    text = out.decode()
    assert "add ×300" in text and "p50" in text and "done 301/301" in text and "━" in text
    assert "\x1b[" in text


def test_ctrl_c_leaves_the_job(sh: Shell) -> None:
    """Of watch at once; of run when its handlers have ended. Both say how it goes on."""
    os.mkfifo(sh.folder / "gate")
    sh("start", "add", 1, "--id", "i")

    def interrupted(*words: str) -> str:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(sh.command(*words), cwd=sh.folder, env=sh.env, text=True, **pipes) as process:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline()  # it follows, or its handler runs
            process.send_signal(signal.SIGINT)
            told = process.stderr.readline()
            if words[0] == "run":
                (sh.folder / "gate").open("w").close()
            told += process.stderr.read()
        assert process.returncode == 130 and "Traceback" not in told
        return told

    assert "job i goes on" in interrupted("watch", "i")
    assert sh.json("show", "i")["job"]["state"] == "running"
    told = interrupted("run", "held")
    job = sh.json("jobs", "type:held")["jobs"][0]
    assert f"dynatask cancel {job['id']}" in told and job["state"] == "succeeded"


def test_watch_whose_reader_goes_has_no_end_to_tell(sh: Shell) -> None:
    sh("start", "add", 1, "--id", "w")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(sh.command("watch", "w"), cwd=sh.folder, env=sh.env, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_result_of_none_and_one_that_is_not_kept(sh: Shell) -> None:
    sh("run", "mixed", 2)
    job = sh.json("jobs")["jobs"][0]["id"]
    tasks = {task["type"]: task["id"] for task in sh.json("tree", job, "--expand")["tree"]["children"]}
    child = sh("show", tasks["many"])
    assert "not kept" in child and "keep=all" in child and "result  " not in child
    assert sh.json("show", tasks["many"])["task"]["kept"] is False
    sh("run", "nil")
    job = sh.json("jobs", "type:nil")["jobs"][0]["id"]
    assert "result   None" in sh("show", job)
    assert sh.json("show", job)["job"]["kept"] is True


def test_nothing_of_a_job_steers_the_terminal(sh: Shell) -> None:
    sh("run", "greet", "a\x1b[31mb", code=0)
    sh("run", "hostile", code=1)
    assert "\x1b" not in sh.err and "␛]0;" in sh.err
    job = sh.json("jobs", "type:hostile")["jobs"][0]["id"]
    shown = sh("show", job) + sh("tree", job, "--expand")
    assert "\x1b" not in shown and "\u202e" not in shown and "␛]0;" in shown


def test_worker_serves_c_plugins_without_code(sh: Shell, worker) -> None:
    sh.env["DYNATASK_APP"] = "fib"
    sh("start", f"{ROOT}/examples/fib/fib.py:fib_c", 10, "--id", "f")
    process = worker("--plugin", BUILD / "examples/fib/fib.so", "--slots", 1)
    sh("watch", "f")
    assert sh.json("tree", "f")["merged"]["language"] == "c"
    assert sh("start", "fib_c", 11, "--id", "g") == "g\n"  # by its name alone: a worker has said what it takes
    sh("watch", "g")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0


def test_worker_reloads_changed_code(sh: Shell, worker) -> None:
    process = worker("--reload")
    sh("start", "greet", "ann", "loud=true", "--id", "before")
    sh("watch", "before")
    (sh.folder / "shop.py").write_text(PROGRAM.replace("name.upper()", "name.title()"))
    for i in range(100):  # until the new code answers; it is looked at once a second
        sh("start", "greet", "ann", "loud=true", "--id", f"after-{i}")
        sh("watch", f"after-{i}")
        if sh.json("show", f"after-{i}/0")["task"]["result"] == "Ann":
            break
    else:
        raise AssertionError("the old code still answers")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0


def test_a_worker_of_types_that_are_not_there(sh: Shell) -> None:
    told = sh.refused("worker", "--types", "ad,greet")
    assert "'ad'" in told and "write add" in told
    assert "'ad'" in sh.refused("worker", "--slots", "ad=1")
    assert not (sh.folder / "jobs.db").exists()


def test_a_worker_says_what_it_serves_once_it_does(sh: Shell) -> None:
    """And before that nothing but what is wrong."""
    for words in (("--grace", "-5"), ("--url", "sqlite:no/such/folder.db"), ("--url", "mysql://x")):
        told = sh.refused("worker", *words, code=5 if "folder" in words[1] else 2)
        assert told.startswith("dynatask: "), told
    fib, plugin = f"{ROOT}/examples/fib/fib.py", BUILD / "examples/fib/fib.so"
    command = sh.command("-a", fib, "worker", "--plugin", plugin)
    with subprocess.Popen(command, cwd=sh.folder, env=sh.env, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == f"dynatask worker {process.pid} of app fib serves fib, fib_c; SIGTERM drains\n"
        finally:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


# ---- check ---------------------------------------------------------------------------------
def test_config_says_where_each_value_comes_from(sh: Shell) -> None:
    (sh.folder / "dynatask.toml").write_text('slots = 3\nlease = "20s"\n')
    sh.env["DYNATASK_GRACE"] = "7"
    options = {option["name"]: option for option in sh.json("config", "--url", "sqlite:other.db")["options"]}
    assert (options["url"]["value"], options["url"]["source"]) == ("sqlite:other.db", "command line")
    assert (options["slots"]["value"], options["slots"]["source"]) == (3, "file")
    assert options["grace"]["source"] == "environment"
    assert options["retain"]["source"] == "default"
    assert (options["prefetch"]["value"], options["prefetch"]["unit"]) == (256, "")
    assert (options["max_payload"]["value"], options["max_payload"]["unit"]) == (64 << 20, "bytes")
    # For people as one would write it; blank is what is not given.
    told = {line.split()[0]: line for line in sh("config").splitlines()}
    for name, shown in {"lease": "20s file 15s", "grace": "7s environment 30s", "retain": "1d default 1d", "max_payload": "64MiB"}.items():
        assert shown in " ".join(told[name].split())
    (sh.folder / "dynatask.toml").unlink()
    assert "slots default handlers" in " ".join(sh("config").split())


def test_doctor(sh: Shell, worker) -> None:
    checks = {check["name"]: check for check in sh.json("doctor")["checks"]}
    assert {checks[name]["level"] for name in ("url", "folder", "disk", "engine")} == {"ok"}
    assert checks["workers"]["level"] == "warn" and "dynatask worker" in checks["workers"]["try_"]
    sh("start", "add", 1)
    assert "add" in next(c for c in sh.json("doctor")["checks"] if c["name"] == "types")["text"]
    worker("--types", "add")
    sh("start", "add", 2, "--id", "served")
    sh("watch", "served")
    checks = {check["name"]: check for check in sh.json("doctor")["checks"]}
    assert checks["workers"]["level"] == "ok" and "1 alive" in checks["workers"]["text"]
    assert checks["bells"]["level"] == "ok"
    assert checks["types"]["level"] == "warn" and "greet" in checks["types"]["text"] and "add" not in checks["types"]["text"]
    (sh.folder / "jobs.db-bells").chmod(0o755)
    assert "chmod 700" in sh("doctor", code=5)
    (sh.folder / "jobs.db-bells").chmod(0o700)
    (sh.folder / "text.db").write_text("this is no database " * 100)
    out = sh("doctor", "--url", "sqlite:text.db", code=5)
    assert "bad" in out and "try: " in out
    assert "mkdir" in sh("doctor", "--url", "sqlite:no/such/folder.db", code=5)


def test_doctor_of_what_cannot_be_looked_at(sh: Shell) -> None:
    """A line of its own for each, and the code of what is wrong."""

    def bad(*words: str, code: int) -> tuple[str, str]:
        found = json.loads(sh("doctor", "--json", *words, code=code))["checks"][-1]
        assert found["level"] == "bad" and found["try_"]
        return found["name"], found["text"]

    assert bad("-a", "nope.py", code=2) == ("app", "there is no file nope.py")
    assert bad("--url", "bad", code=2)[0] == "options"
    sh.env["DYNATASK_LEASE"] = "x"
    assert "lease" in bad(code=2)[1]
    del sh.env["DYNATASK_LEASE"]
    checks = {check["name"]: check for check in sh.json("doctor", "--url", "memory:")["checks"]}
    assert "from --url" in checks["url"]["text"] and checks["workers"]["level"] == "ok"


def test_cancel_of_a_task(sh: Shell, worker) -> None:
    """It and all below; the hint is of its job."""
    sh("start", "many", 3, "--id", "k")
    assert "dynatask watch k" in sh("cancel", "k/0")
    worker()
    sh("watch", "k", code=4)


# ---- what is wrong -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("run", "nothing.py::add"), "nothing.py"),
        (("run", "shop:app"), "app"),
        (("run", "add"), "a"),
        (("run", "add", "1", "2", "3"), "argument"),
        (("run", "add", "x"), "a"),
        (("start", "add", "1", "--id", "a/b"), "id"),
        (("jobs", "colour:red"), "colour"),
        (("jobs", "-a", "no such name"), "APP"),
        (("jobs", "-a", "shop.py:add"), "App"),
        (("jobs", "--url", "mysql://x"), "mysql"),
        (("worker", "--slots", "many"), "slots"),
        (("worker", "--slots", "0"), "from 1"),
        (("worker", "-a", "shop.py", "--types", "ad"), "write add"),
        (("-a", "nothing.py", "jobs"), "nothing.py"),
        (("--url", "mysql://x", "jobs"), "mysql"),
        (("start", "greet", "--nope"), "'--nope'"),
        (("start", "--nope", "greet"), "'--nope'"),
        (("jobs", "-a"), "dynatask jobs --help"),
        (("jobs", "-a", "shop:nope"), "it has app"),
        (("jobs", "-a", "nowhere:app"), "no module nowhere"),
        (("run", "shop:ad", "1"), "it has add, greet"),
        (("run", "add"), "try: dynatask run add A [B]"),
        (("start", "shop.py:weigh", "1"), "try: dynatask start shop.py:weigh CART"),
        (("start", "add", "1", "--id", "x" * 201), "try: dynatask start --help"),
        (("jobs", "type:"), "try: dynatask jobs --help"),
        (("config", "--url", "bad"), "try: dynatask config --help"),
        (("watch", "m/0"), "try: dynatask watch m"),
        (("tree", "m/0"), "try: dynatask tree m"),
        *(((*words, "--url", "memory:"), "memory: (from --url)") for words in (("jobs",), ("start", "add", "1"), ("worker",), ("worker", "--reload"), ("worker", "--processes", "2"), ("watch", "m"))),
        (("worker", "nobody"), "--plugin"),
        (("worker", "--plugin", "none.so"), "none.so"),
        (("watch",), "ID"),
        (("nonsense",), "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_usage(sh: Shell, words: tuple[str, ...], part: str) -> None:
    assert part in sh.refused(*words, code=2)


@pytest.mark.parametrize("words", [("show",), ("watch",), ("tree",), ("cancel",)], ids=lambda w: w[0])
def test_unknown_job(sh: Shell, words: tuple[str, ...]) -> None:
    assert "nobody" in sh.refused(*words, "nobody", code=3)


def test_unknown_type(sh: Shell) -> None:
    said = sh.refused("run", "shop.py::nothing", code=3)
    assert "nothing" in said and "greet" in said
    assert "try: dynatask run greet" in sh.refused("run", "gret", "ann", code=3)


def test_unreachable_engine(sh: Shell) -> None:
    (sh.folder / "text.db").write_text("this is no database " * 100)
    assert "dynatask doctor" in sh.refused("jobs", "--url", "sqlite:text.db", code=5)


def test_no_app_named(sh: Shell) -> None:
    del sh.env["DYNATASK_APP"]
    assert "no app" in sh.refused("jobs")
    (sh.folder / "dynatask.toml").write_text('app = "shop:app"\n')
    assert "no jobs" in sh("jobs")


def test_app_that_cannot_be_imported(sh: Shell) -> None:
    """Told with its place, which is none of Python's own."""
    for text, why in (("\nimport nothing_of_that_name", "nothing_of_that_name"), ("\ndef f(:", "SyntaxError"), ("\n1/0", "ZeroDivisionError")):
        (sh.folder / "bad.py").write_text(text)
        for app in ("bad.py", "bad:app"):
            told = sh.refused("jobs", "-a", app)
            assert "bad.py:2" in told and why in told and "<frozen" not in told
    (sh.folder / "none.py").write_text("")
    assert "makes no App" in sh.refused("jobs", "-a", "none.py")
    (sh.folder / "two.py").write_text("from dynatask import App\na, b = App('a'), App('b')\n")
    assert "two:a or two:b" in sh.refused("jobs", "-a", "two.py")


def test_help(sh: Shell) -> None:
    assert sh(code=2) == "" and sh.err == sh("--help")  # nothing said at all
    listed = sh("--help").split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in listed] == "worker run start jobs show watch tree cancel config doctor".split()
    assert not any(line.endswith("...") for line in listed)
    for line in listed:
        said = sh(line.split()[0], "--help")
        assert "--app APP" in said and "--url URL" in said and "INTEGER" not in said and "TEXT" not in said


def test_words_before_and_after_the_command(sh: Shell) -> None:
    del sh.env["DYNATASK_APP"]
    assert sh("-a", "shop.py", "run", "add", "1") == sh("run", "-a", "shop.py", "add", "1") == "11\n"
    sh("--url", "sqlite:other.db", "-a", "shop.py", "start", "add", "1", "--id", "o")
    assert "o" in sh("show", "o", "-a", "shop.py", "--url", "sqlite:other.db")
    assert sh("-a", "shop.py", "run", "greet", "--", "--x") == '"--x"\n'


@pytest.mark.parametrize("words", [("jobs",), ("config", "--json"), ("run", "add", "1")], ids=" ".join)
def test_output_that_nobody_takes(sh: Shell, words: tuple[str, ...]) -> None:
    """Its reader has gone, as of `| head`: not an error. Its disk is full: one."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(sh.command(*words), cwd=sh.folder, env=sh.env, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    with open("/dev/full", "w") as full:
        done = subprocess.run(sh.command(*words), cwd=sh.folder, env=sh.env, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("dynatask: standard output cannot be written: No space left") and "Traceback" not in done.stderr


def test_help_does_not_import_rich(sh: Shell) -> None:
    code = (
        "import sys, runpy\nsys.argv = ['dynatask', '--help']\n"
        "try: runpy.run_module('dynatask', run_name='__main__')\nexcept SystemExit: pass\n"
        "print([m for m in ('rich', 'dynatask.cli.view') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=sh.folder, capture_output=True, text=True, check=True)
    assert "worker" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
