"""Writes the C source of `dynatask._cffi` from the public headers.

    generate.py CC OUTPUT HEADER..

Nothing of the interface is written down here: the headers go through the C
preprocessor, and what is left is what CFFI reads. For every callback type
`dtask_NAME_fn` that returns nothing, Python gets a function pointer
`lib.on_NAME`, whose body it defines with `ffi.def_extern`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cffi

INCLUDE = re.compile(r"^\s*#\s*include\b.*$", re.MULTILINE)
CALLBACK = re.compile(r"typedef void dtask_(\w+)_fn\(([^)]*)\);")


def declarations(compiler: list[str], headers: list[Path]) -> str:
    """The headers' declarations as CFFI wants them: no includes, no attributes, no macros."""
    text = "\n".join(INCLUDE.sub("", header.read_text()) for header in headers)
    # Without __GNUC__ the headers leave out what only compilers read.
    command = [*compiler, "-E", "-P", "-x", "c", "-U__GNUC__", "-"]
    return subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout


def main() -> None:
    compiler, output, headers = sys.argv[1].split(), Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]]
    cdef = declarations(compiler, headers)
    callbacks = [f'extern "Python" void on_{name}({params});' for name, params in CALLBACK.findall(cdef)]
    ffi = cffi.FFI()
    ffi.cdef("\n".join([cdef, *callbacks]))
    ffi.set_source("dynatask._cffi", "\n".join(f'#include "{header.name}"' for header in headers))
    ffi.emit_c_code(str(output))


if __name__ == "__main__":
    main()
