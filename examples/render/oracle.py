"""The picture's pixels by one plain loop: what render's tiles must add up to.

    python examples/render/oracle.py SIDE LIMIT > pixels
"""

from __future__ import annotations

import sys


def pixels(side: int, limit: int) -> bytes:
    out = bytearray()
    for row in range(side):
        cy = -1.5 + 3.0 * row / side
        for column in range(side):
            cx = -2.25 + 3.0 * column / side
            x = y = 0.0
            rounds = 0
            while rounds < limit and x * x + y * y <= 4.0:
                x, y = x * x - y * y + cx, 2.0 * x * y + cy
                rounds += 1
            out.append(rounds)
    return bytes(out)


if __name__ == "__main__":
    sys.stdout.buffer.write(pixels(int(sys.argv[1]), int(sys.argv[2])))
