"""What a Kafka broker of one version is made of: jars, a formatted data folder, a class archive.

Made once by `script/setup test` (`python -m servers prepare`) and kept in $XDG_CACHE_HOME/dynatask (~/.cache/dynatask), by the hash of the
pom in poms/: the jars come from Maven as the user has set it up. The formatted folder is copied for each broker instead of run (0.003 s
instead of 1 s); the archive halves the CPU of a start. The archive belongs to one build of Java and to the jars' paths and times: the
JVM ignores a wrong one silently, therefore it is tried once with -Xshare:on.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .process import ServerError

VERSIONS = ("4.3.1", "3.9.2")  # the main one, the second
VERSION = os.environ.get("DTASK_KAFKA_VERSION") or VERSIONS[0]  # of the tests that do not name one
SCRAM = ("scram-user", "scram-secret")
CLUSTER_ID = "ZHluYXRhc2stdGVzdHMtMQ"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
# Warnings and errors to the broker's log, for both logging libraries.
LOG4J2 = """status = error
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ABSOLUTE} %p %c{1}: %m%n
"""
LOG4J = """log4j.rootLogger=WARN, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{ABSOLUTE} %p %c{1}: %m%n
"""
FORMAT = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:9
listeners=CONTROLLER://127.0.0.1:9,PLAINTEXT://127.0.0.1:8
advertised.listeners=PLAINTEXT://127.0.0.1:8
controller.listener.names=CONTROLLER
log.dirs=data
"""


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynatask"


class Kit:
    def __init__(self, version: str) -> None:
        self.version = version
        self.pom = Path(__file__).with_name("poms") / f"kafka-{version}.xml"
        if not self.pom.exists():
            raise ServerError(f"no Kafka {version} here; there are {', '.join(VERSIONS)}")
        recipe = self.pom.read_text() + FORMAT + CLUSTER_ID + LOG4J + LOG4J2 + " ".join(SCRAM)
        self.folder = cache() / f"kafka-{version}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
        self.jars = self.folder / "jars"
        self.template = self.folder / "template"
        self.why_not = self.folder / "why-not"

    @property
    def archive(self) -> Path:
        """The class archive for the Java on the PATH."""
        java = shutil.which("java")
        if not java:
            raise ServerError("no java on the PATH")
        release = Path(java).resolve().parent.parent / "release"
        return self.folder / f"classes-{hashlib.sha256(release.read_bytes()).hexdigest()[:12]}.jsa"

    def missing(self) -> str | None:
        """Why no broker of this version can start here, in one line; None if one can."""
        if not shutil.which("java"):
            return f"Kafka {self.version}: no java on the PATH; script/setup test installs it"
        if all(part.exists() for part in (self.jars, self.template, self.archive)):
            return None
        reason = self.why_not.read_text() if self.why_not.exists() else "script/setup test was not run"
        return f"Kafka {self.version} is not in {self.folder}: {reason}"

    def java(self, options: Sequence[str], arguments: Sequence[str | Path], archive: bool = True) -> list[str | Path]:
        """A command line of Java with this version's class path, in an order that never varies."""
        command: list[str | Path] = ["java", "-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        command += ["-XX:-UsePerfData", "-Djava.io.tmpdir=."]  # nothing outside its folder
        command += [f"-Dlog4j.configuration=file:{self.folder}/log4j.properties"]
        command += [f"-Dlog4j2.configurationFile={self.folder}/log4j2.properties"]
        if archive:
            command += [f"-XX:SharedArchiveFile={self.archive}", "-Xlog:disable", "-Xlog:all=error:stderr"]
        return [*command, *options, "-cp", ":".join(map(str, sorted(self.jars.glob("*.jar")))), *arguments]

    def prepare(self, dump: Callable[[Path], None], say: Callable[[str], None]) -> None:
        """Makes what is missing; `dump` makes the class archive. ServerError says, and `why_not` keeps, what went wrong."""
        if not self.missing():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another checkout may be at it
            try:
                (self.folder / "log4j2.properties").write_text(LOG4J2)
                (self.folder / "log4j.properties").write_text(LOG4J)
                if not self.jars.exists():
                    say(f"fetching Kafka {self.version} with Maven")
                    self._fetch()
                if not self.template.exists():
                    self._format()
                if not self.archive.exists():
                    say(f"archiving the classes of Kafka {self.version}")
                    with _made(self.archive) as archive:
                        dump(archive)
                        self._check(archive)
            except ServerError as error:
                self.why_not.write_text(" ".join(str(error).split()))
                raise
            self.why_not.unlink(missing_ok=True)

    def _fetch(self) -> None:
        if not shutil.which("mvn"):
            raise ServerError("no mvn on the PATH")
        with _made(self.jars) as jars:
            _run(["mvn", "-q", "-B", "-f", self.pom, COPY, "-DincludeScope=runtime", f"-DoutputDirectory={jars}"], self.folder)

    def _format(self) -> None:
        with _made(self.template) as work:
            work.mkdir()
            (work / "server.properties").write_text(FORMAT)
            scram = f"SCRAM-SHA-256=[name={SCRAM[0]},password={SCRAM[1]}]"
            tool = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", "server.properties", "--add-scram", scram]
            _run(self.java([], tool, archive=False), work)
            meta = work / "data" / "meta.properties"  # each broker gives its folder an id of its own
            meta.write_text("".join(line for line in meta.read_text().splitlines(True) if not line.startswith("directory.id")))

    def _check(self, archive: Path) -> None:
        """ServerError if this Java does not take the archive."""
        command = self.java([f"-XX:SharedArchiveFile={archive}", "-Xshare:on"], ["kafka.Kafka"], archive=False)
        run = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        if "server.properties" not in run.stdout + run.stderr:  # its usage
            raise ServerError(f"Java does not take the class archive it made: {run.stdout}{run.stderr}")


@contextmanager
def _made(path: Path) -> Generator[Path]:
    """A name to make something under, which becomes `path` once it is whole."""
    new = path.with_name(f"{path.name}.new")
    if new.is_dir():
        shutil.rmtree(new)
    new.unlink(missing_ok=True)
    yield new
    new.rename(path)


def _run(command: Sequence[str | Path], folder: Path) -> None:
    run = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if run.returncode:
        lines = (run.stdout + run.stderr).strip().splitlines() or [f"exit code {run.returncode}"]
        first = next((line for line in lines if "ERROR" in line), lines[-1])
        raise ServerError(f"{command[0]}: {first}")
