"""render: the Mandelbrot set as a PNG, drawn by tiles that subdivide themselves.

    python examples/render/render.py mandelbrot.png [SIDE]     # SIDE: a power of two; 512

The C handler `tile` (render.c) makes four tasks of a large tile and joins
their pixels; the Python root colours what comes back and writes the file.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from pathlib import Path

from dynatask import App

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = Path(os.environ.get("DTASK_BUILD", ROOT / "build")) / "examples/render/render.so"
LIMIT = 200  # most rounds for a pixel; so many: in the set

app = App("render")


@app.extern()
def tile(x: int, y: int, size: int, width: int, limit: int) -> bytes: ...


def palette(limit: int) -> bytes:
    """Red, green, blue for 0 to limit rounds: from night over blue to white; the set is black."""
    colours = [(min(255, n * 5), min(255, n * 9), min(255, 40 + n * 12)) for n in range(limit)]
    return bytes(part for colour in [*colours, (0, 0, 0)] for part in colour)


def png(pixels: bytes, side: int, colours: bytes) -> bytes:
    """A square picture with a palette, one byte a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + pixels[at : at + side] for at in range(0, side * side, side))
    header = struct.pack(">IIBBBBB", side, side, 8, 3, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"PLTE", colours), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


@app.task
def picture(path: str, side: int) -> int:
    """Writes the file and returns its size. A file is there whole or not at all."""
    pixels = tile.spawn(0, 0, side, side, LIMIT).result()
    data = png(pixels, side, palette(LIMIT))
    part = Path(path + ".part")
    part.write_bytes(data)
    part.replace(path)
    return len(data)


def main() -> int:
    side = sys.argv[2] if len(sys.argv) == 3 else "512"
    if len(sys.argv) not in (2, 3) or not side.isdecimal():
        print("usage: render.py FILE.png [SIDE]", file=sys.stderr)
        return 2
    with app.worker(plugins=[str(PLUGIN)]):
        job = picture.start(os.path.abspath(sys.argv[1]), int(side))
        size = job.result()
        print(f"{sys.argv[1]}: {side}x{side} pixels, {size} bytes, by {job.info().counts.added} tasks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
