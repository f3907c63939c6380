// render, the C half: a square of the Mandelbrot set, one byte a pixel.
//
//   dynatask-worker --app render --plugin build/examples/render/render.so
//
// A tile larger than LEAF becomes four tasks of a quarter each; it parks
// until they are complete and puts their pixels together. So the tree of
// tasks is the tree of tiles, and its root's result is the picture.
#include <dynatask.h>

#include <stdlib.h>
#include <string.h>

enum { LEAF = 32, SIDE_MAX = 4096, LIMIT_MAX = 255 };

typedef struct {
    int64_t x, y, size;          // this tile, in pixels
    int64_t width, limit;        // of the whole picture; most rounds for a pixel
} tile;

// Rounds until the point runs away, at most limit (then it is in the set).
static unsigned char rounds(double cx, double cy, int64_t limit) {
    double x = 0, y = 0;
    int64_t n = 0;
    while (n < limit && x * x + y * y <= 4.0) {
        double t = x * x - y * y + cx;
        y = 2.0 * x * y + cy;
        x = t;
        n++;
    }
    return (unsigned char)n;
}

static void draw(tile t, unsigned char *out) {
    for (int64_t j = 0; j < t.size; j++)
        for (int64_t i = 0; i < t.size; i++)
            *out++ = rounds(-2.25 + 3.0 * (double)(t.x + i) / (double)t.width,
                -1.5 + 3.0 * (double)(t.y + j) / (double)t.width, t.limit);
}

// The four quarters, left to right, top to bottom.
static tile quarter(tile t, int q) {
    int64_t half = t.size / 2;
    return (tile){t.x + (q & 1) * half, t.y + (q >> 1) * half, half, t.width, t.limit};
}

static dtask_err split(dtask_task *task, tile t, unsigned char *out) {
    dtask_child *parts[4];
    dtask_err err = DTASK_OK;
    for (int q = 0; q < 4 && !err; q++) {
        tile p = quarter(t, q);
        err = dtask_spawn(task, "tile", NULL, &parts[q], "i i i i i", p.x, p.y, p.size, p.width, p.limit);
    }
    if (!err) err = dtask_wait(task, NULL, -1);
    for (int q = 0; q < 4 && !err; q++) {
        tile p = quarter(t, q);
        dtask_str pixels;
        err = dtask_child_result(parts[q], "y", &pixels);
        for (int64_t j = 0; j < p.size && !err; j++)
            memcpy(out + (p.y - t.y + j) * t.size + (p.x - t.x), pixels.p + j * p.size, (size_t)p.size);
    }
    return err;
}

static dtask_err draw_tile(dtask_task *task, void *arg) {
    (void)arg;
    tile t;
    dtask_err err = dtask_args(task, "x:i y:i size:i width:i limit:i", &t.x, &t.y, &t.size, &t.width, &t.limit);
    if (err) return err;
    if (t.size < 1 || t.size > SIDE_MAX || (t.size & (t.size - 1)) || t.width < 1 || t.limit < 1 || t.limit > LIMIT_MAX)
        return dtask_fail(task, DTASK_EFATAL, "size must be a power of two up to %d, limit 1 to %d", SIDE_MAX, LIMIT_MAX);

    unsigned char *pixels = malloc((size_t)(t.size * t.size));
    if (!pixels) return dtask_fail(task, DTASK_ENOMEM, "no memory for %lld pixels", (long long)(t.size * t.size));
    if (t.size > LEAF) err = split(task, t, pixels);
    else draw(t, pixels);
    if (!err) err = dtask_done(task, "y", (dtask_str){(const char *)pixels, (size_t)(t.size * t.size)});
    free(pixels);
    return err;
}

DTASK_PLUGIN("render", {"tile", draw_tile, "x:i y:i size:i width:i limit:i -> y"});
