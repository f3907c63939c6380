// survey, the C half: what one chunk of one file holds.
//
//   dynatask-worker --app survey --plugin build/examples/survey/survey.so
//
// A chunk is counted alone, with no knowledge of its neighbours, so that
// chunks may run anywhere, in any order, and twice. Two things make their
// sums exact: a word that crosses a border counts in the chunk where it
// begins, which one look at the byte before tells; and a chunk's hash is
// seeded by its place, so that hashes may be added up in any order.
//
// A file that cannot be read is no failure of the task: the result says so,
// and the survey goes on.
#include <dynatask.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { CHUNK_MAX = 1 << 20, PATH_BYTES_MAX = 1 << 16 };

typedef struct {
    int64_t lines, words, bytes;
    uint64_t hash;
} counts;

// The six blanks that end a word, as in Python's bytes.split().
static int blank(unsigned char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// before: the byte in front of the chunk, a blank at the beginning of a file.
static counts count(const unsigned char *p, size_t n, unsigned char before, uint64_t seed) {
    counts c = {.bytes = (int64_t)n, .hash = XXH3_64bits_withSeed(p, n, seed)};
    int was_blank = blank(before);
    for (size_t i = 0; i < n; i++) {
        int is_blank = blank(p[i]);
        c.lines += p[i] == '\n';
        c.words += was_blank & !is_blank;
        was_blank = is_blank;
    }
    return c;
}

// Reads up to n bytes from `offset`; fewer if the file ends there. -1: errno.
static ssize_t read_at(int fd, unsigned char *p, size_t n, off_t offset) {
    size_t got = 0;
    while (got < n) {
        ssize_t r = pread(fd, p + got, n - got, offset + (off_t)got);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return -1;
        if (r == 0) break;
        got += (size_t)r;
    }
    return (ssize_t)got;
}

// 0, or the errno that says why the chunk cannot be read. buf has room for
// length + 1 bytes.
static int survey(const char *name, uint64_t seed, int64_t offset, int64_t length, unsigned char *buf, counts *out) {
    // A path that has become a symlink or a pipe since it was listed is not followed, nor waited for.
    int fd = open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return errno;
    struct stat st;
    int err = fstat(fd, &st) ? errno : S_ISREG(st.st_mode) ? 0 : EINVAL;
    if (!err) {
        size_t ahead = offset > 0;
        buf[0] = ' ';
        ssize_t n = read_at(fd, buf + 1 - ahead, (size_t)length + ahead, offset - (off_t)ahead);
        if (n < 0) err = errno;
        else *out = count(buf + 1, (size_t)n > ahead ? (size_t)n - ahead : 0, buf[0], seed);
    }
    close(fd);
    return err;
}

static dtask_err count_chunk(dtask_task *task, void *arg) {
    (void)arg;
    dtask_str root, path;
    int64_t offset, length;
    dtask_err err = dtask_args(task, "root:y path:y offset:i length:i", &root, &path, &offset, &length);
    if (err) return err;
    if (offset < 0 || length < 0 || length > CHUNK_MAX)
        return dtask_fail(task, DTASK_EFATAL, "a chunk is 0 to %d bytes from an offset that is not negative", CHUNK_MAX);
    if (root.n + path.n > PATH_BYTES_MAX || memchr(root.p, 0, root.n) || memchr(path.p, 0, path.n))
        return dtask_fail(task, DTASK_EFATAL, "a path has at most %d bytes, and no NUL", PATH_BYTES_MAX);

    // One block: the byte before, the chunk, then the name of the file.
    unsigned char *buf = malloc((size_t)length + 1 + root.n + path.n + 2);
    if (!buf) return dtask_fail(task, DTASK_ENOMEM, "no memory for a chunk of %lld bytes", (long long)length);
    char *name = (char *)buf + length + 1;
    memcpy(name, root.p, root.n);
    name[root.n] = '/';
    memcpy(name + root.n + 1, path.p, path.n);
    name[root.n + 1 + path.n] = 0;

    counts c = {0};
    uint64_t seed = XXH3_64bits_withSeed(path.p, path.n, (uint64_t)offset);
    int failed = survey(name, seed, offset, length, buf, &c);
    free(buf);
    char text[128] = "";
    const char *why = failed ? strerror_r(failed, text, sizeof text) : text;
    return dtask_done(task, "i i i u z", c.lines, c.words, c.bytes, c.hash, why);
}

DTASK_PLUGIN("survey", {"count_chunk", count_chunk, "root:y path:y offset:i length:i -> i i i u s"});
