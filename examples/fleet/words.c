// fleet, the C half: tables of words.
//
//   dynatask-worker --app fleet --types tally --plugin build/examples/fleet/words.so
//   dynatask-worker --app fleet --types merge --plugin build/examples/fleet/words.so
//
// A table is bytes: lines "word count", each word once, in the order of the
// words' bytes. A word is a run of the letters a to z, either case, in lower
// case. Both handlers get all they need in their arguments: the machines they
// run on need no files, only the engine.
#include <dynatask.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool letter(char c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; }

static int by_bytes(const void *a, const void *b) {
    const dtask_str *x = a, *y = b;
    int order = memcmp(x->p, y->p, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static char *put(char *out, dtask_str word, uint64_t count) {
    memcpy(out, word.p, word.n);
    return out + word.n + sprintf(out + word.n, " %llu\n", (unsigned long long)count);
}

// ---- tally: a piece of text to its table --------------------------------------------

// The words of n bytes, which become lower case; how many there are.
static size_t find_words(char *p, size_t n, dtask_str *words) {
    size_t found = 0;
    for (size_t i = 0; i < n;) {
        size_t from = i;
        for (; i < n && letter(p[i]); i++) p[i] |= 0x20;
        if (i > from) words[found++] = (dtask_str){p + from, i - from};
        else i++;
    }
    return found;
}

static size_t count_equal(dtask_str *words, size_t n, char *out) {
    char *end = out;
    qsort(words, n, sizeof *words, by_bytes);
    for (size_t i = 0, same; i < n; i += same) {
        for (same = 1; i + same < n && !by_bytes(&words[i], &words[i + same]); same++) {
        }
        end = put(end, words[i], same);
    }
    return (size_t)(end - out);
}

static dtask_err tally(dtask_task *task, void *arg) {
    (void)arg;
    dtask_str text;
    dtask_err err = dtask_args(task, "text:y", &text);
    if (err) return err;
    // A word takes two bytes of text at least, but the last; its line adds 22 at most.
    size_t most = text.n / 2 + 1;
    char *copy = malloc(text.n + 1), *table = malloc(text.n + 22 * most + 1);
    dtask_str *words = malloc(most * sizeof *words);
    if (!copy || !table || !words) err = dtask_fail(task, DTASK_ENOMEM, "no memory for a text of %zu bytes", text.n);
    else {
        memcpy(copy, text.p, text.n);
        size_t n = count_equal(words, find_words(copy, text.n, words), table);
        err = dtask_done(task, "y", (dtask_str){table, n});
    }
    free(copy);
    free(table);
    free(words);
    return err;
}

// ---- merge: two tables to one ---------------------------------------------------------

typedef struct {
    const char *p, *end; // what is left
    dtask_str word;      // n: 0 at the end
    uint64_t count;
} reader;

// The next line; false: what is left is no table.
static bool next(reader *r) {
    *r = (reader){r->p, r->end, {0}, 0};
    if (r->p == r->end) return true;
    const char *blank = memchr(r->p, ' ', (size_t)(r->end - r->p));
    if (!blank || blank == r->p) return false;
    r->word = (dtask_str){r->p, (size_t)(blank - r->p)};
    for (r->p = blank + 1; r->p < r->end && *r->p >= '0' && *r->p <= '9'; r->p++) r->count = 10 * r->count + (uint64_t)(*r->p - '0');
    return r->p < r->end && *r->p++ == '\n';
}

// SIZE_MAX: one of the two is no table.
static size_t merge_into(reader a, reader b, char *out) {
    char *end = out;
    bool good = next(&a) && next(&b);
    while (good && (a.word.n || b.word.n)) {
        int order = !a.word.n ? 1 : !b.word.n ? -1 : by_bytes(&a.word, &b.word);
        end = put(end, order <= 0 ? a.word : b.word, (order <= 0 ? a.count : 0) + (order >= 0 ? b.count : 0));
        good = (order > 0 || next(&a)) && (order < 0 || next(&b));
    }
    return good ? (size_t)(end - out) : SIZE_MAX;
}

static dtask_err merge(dtask_task *task, void *arg) {
    (void)arg;
    dtask_str a, b;
    dtask_err err = dtask_args(task, "a:y b:y", &a, &b);
    if (err) return err;
    // A sum has no more digits than its two counts together, but put writes a NUL behind the line.
    char *table = malloc(a.n + b.n + 1);
    if (!table) return dtask_fail(task, DTASK_ENOMEM, "no memory for a table of %zu bytes", a.n + b.n);
    size_t n = merge_into((reader){a.p, a.p + a.n, {0}, 0}, (reader){b.p, b.p + b.n, {0}, 0}, table);
    err = n == SIZE_MAX ? dtask_fail(task, DTASK_EFATAL, "a table has lines 'word count'") : dtask_done(task, "y", (dtask_str){table, n});
    free(table);
    return err;
}

DTASK_PLUGIN("words", {"tally", tally, "text:y -> y"}, {"merge", merge, "a:y b:y -> y"});
