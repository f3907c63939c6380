"""Makes vectors.h for test_vectors.c out of proto/*.json."""

import json
import sys
from pathlib import Path

out, *files = map(Path, sys.argv[1:])
lines = ["typedef struct { const char *name; unsigned char bytes[256]; unsigned n; } dti_vector;"]
for file in files:
    lines.append(f"static const dti_vector {file.stem}[] = {{")
    for v in json.loads(file.read_text()):
        raw = bytes.fromhex(v["hex"])
        text = ",".join(map(str, raw)) or "0"
        lines.append(f"    {{{json.dumps(v['name'])}, {{{text}}}, {len(raw)}}},")
    lines.append("};")
out.write_text("\n".join(lines) + "\n")
