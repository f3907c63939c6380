"""Makes one C string of the script: assemble.py OUT.c constants.lua FILE.lua ..

The files are one chunk, in the order given; comments, indentation and empty
lines go. The first line that Redis reads (`#!lua` and its flags) is put
before it by whoever sends it.
"""
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


def main(out: str, first: str, *files: str) -> None:
    lines: list[str] = []
    with open(first, encoding="ascii") as f:
        known = constants(f.read())
    for name in files:
        with open(name, encoding="ascii") as f:
            for line in bare(named(f.read()), known).splitlines():
                lines.append('    "' + line.replace("\\", "\\\\").replace('"', '\\"') + '\\n"\n')
    with open(out, "w", encoding="ascii") as f:
        f.write("// Made by assemble.py of core/engines/redis/lua.\n#include <stddef.h>\n\n")
        f.write("extern const char dti_redis_script[];\nextern const size_t dti_redis_script_n;\n\n")
        f.write("const char dti_redis_script[] =\n" + "".join(lines) + "    ;\n")
        f.write("const size_t dti_redis_script_n = sizeof dti_redis_script - 1;\n")


main(*sys.argv[1:])
