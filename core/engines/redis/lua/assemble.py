"""Makes one C string of the library: assemble.py OUT.c constants.lua FILE.lua ..

The files are one chunk, in the order given; comments, indentation and empty
lines go. While Redis loads a library it gives it none of the script's
functions (struct, cmsgpack, ..), so the chunk runs with the first call. The
library and its functions are named by the chunk's digest: two releases of
dynatask use one server side by side.
"""
import hashlib
import re
import sys

CONSTANT = re.compile(r"^local ([A-Z0-9_, \n]+)=([-0-9, \n]+)$", re.M)
TOKEN = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|(--[^\n]*)""")


def constants(text: str) -> dict[str, str]:
    known: dict[str, str] = {}
    for m in CONSTANT.finditer(TOKEN.sub("", text)):
        names, values = ([v.strip() for v in m.group(i).split(",")] for i in (1, 2))
        if len(names) != len(values) or known.keys() & set(names):
            raise SystemExit(f"constants.lua: {m.group(0).strip()}: each name once, with its number")
        known.update(zip(names, values))
    return known


def named(text: str) -> str:
    """A lazy room: `lazy(function()` gets the names that it defines."""
    names = " ".join(re.findall(r"^(?:function )?dt\.(\w+)(?:\(| = )", text, re.M))
    return text.replace("\nlazy(function()", f"\nlazy(' {names} ', function()")


def bare(text: str, known: dict[str, str]) -> str:
    """Without comments; a constant is its number."""
    name = re.compile(TOKEN.pattern + r"|(?<![\w.])([A-Z][A-Z0-9_]*)\b")
    text = name.sub(lambda m: m.group(1) or (m.group(3) and known.get(m.group(3), m.group(3))) or "", text)
    return "".join(line.strip() + "\n" for line in text.split("\n") if line.strip())


LIBRARY = """#!lua name={name}
local function make()
{chunk}end
local entry
local function run(keys, args)
if not entry then entry = make() end
return entry(keys, args)
end
redis.register_function{{function_name='{name}', callback=run}}
redis.register_function{{function_name='{name}_oom', callback=run, flags={{'allow-oom'}}}}
"""


def main(out: str, first: str, *files: str) -> None:
    with open(first, encoding="ascii") as f:
        known = constants(f.read())
    chunk = ""
    for name in files:
        with open(name, encoding="ascii") as f:
            chunk += bare(named(f.read()), known)
    name = "dynatask_" + hashlib.sha1(chunk.encode()).hexdigest()[:16]
    lines = LIBRARY.format(name=name, chunk=chunk).splitlines()
    text = "".join('    "' + line.replace("\\", "\\\\").replace('"', '\\"') + '\\n"\n' for line in lines)
    with open(out, "w", encoding="ascii") as f:
        f.write('// Made by assemble.py of core/engines/redis/lua.\n#include "engines/redis/library.h"\n\n')
        f.write(f'const char dti_redis_function[] = "{name}", dti_redis_function_oom[] = "{name}_oom";\n')
        f.write("const char dti_redis_library[] =\n" + text + "    ;\n")
        f.write("const size_t dti_redis_library_n = sizeof dti_redis_library - 1;\n")


main(*sys.argv[1:])
