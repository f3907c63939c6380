"""Certificates made by openssl when a test asks, good for two days and for 127.0.0.1 and localhost.

`ca.pem` signed `server` and `client`; `stranger` is signed by itself, for tests of a wrong certificate. Each has `NAME.pem` and
`NAME.key`; `NAME.both.pem` is the key and the certificate in one file, as Kafka wants it.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

from .process import Guard, ServerError


class Certificates:
    def __init__(self, guard: Guard) -> None:
        if not shutil.which("openssl"):
            raise ServerError("no openssl on the PATH")
        self.folder = guard.make_folder("certificates")
        self.ca = self.folder / "ca.pem"
        self._make("ca")
        self._make("server", "-CA", "ca.pem", "-CAkey", "ca.key")
        self._make("client", "-CA", "ca.pem", "-CAkey", "ca.key")
        self._make("stranger")

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def both(self, name: str) -> Path:
        return self.folder / f"{name}.both.pem"

    def context(self, name: str | None = "client") -> ssl.SSLContext:
        """For a client that trusts the CA and shows the certificate `name`, or none."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if name:
            context.load_cert_chain(self.certificate(name), self.key(name))
        return context

    def _make(self, name: str, *signer: str) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        command += ["-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", *signer]
        if name != "ca":
            command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]
        run = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        if run.returncode:
            raise ServerError(f"openssl: {run.stderr}")
        self.both(name).write_text(self.key(name).read_text() + self.certificate(name).read_text())
