// Rows in memory: the tables of a store as hash tables (point tables) and
// balanced trees (ordered ones), with the undo of one operation.
//
// Either this is all there is (the memory store), or it is the part that is
// known of what lies in a backing (the SQLite store). Then each tree also
// knows where it is whole: a row that is LINKED has no unknown row between
// its predecessor and itself, and a fence, a row that is not there, marks
// where such knowledge begins. So a seek asks the backing only where nobody
// has looked before.
//
// An operation ends by keep or undo; undo leaves no trace of it. Not done
// here: SQL, locks, when to forget.
#pragma once

#include <bsd/sys/tree.h>

#include "engines/slab.h"
#include "model/store.h"

typedef struct dti_row dti_row;
struct dti_row {
    dti_key key;
    unsigned char *v;            // the value: inline, or a block of its own
    uint32_t n, cap;
    uint32_t undo;               // index + 1 in the undo log, 0: unchanged in this operation
    uint32_t dirty;              // index + 1 in the list of rows to be written, 0: clean
    uint8_t table, flags;
    uint16_t room;               // inline bytes
    union {
        dti_row *next;           // point tables: in its bucket
        RB_ENTRY(dti_row) tree;
    } link;
};
enum {
    DTI_ROW_HERE = 1,            // there is such a row; else only the knowledge that there is none
    DTI_ROW_STORED = 2,          // the backing may have one
    DTI_ROW_LINKED = 4,
    DTI_ROW_NEW = 8,             // in an undo record: this operation made the entry
};
RB_HEAD(dti_tree, dti_row);

typedef struct {                 // a row as it was before the operation
    dti_row *row;
    unsigned char *v, *copy;     // its block; a copy of the bytes if they were overwritten
    uint32_t n, cap;
    uint8_t flags;
} dti_undo;

typedef struct dti_rows dti_rows;
typedef struct {
    // Point tables: calls dti_rows_learn if there is such a row.
    void (*load)(dti_rows *, dti_table, dti_key);
    // Ordered tables: learns some rows from `key` on, in order; returns the
    // last, with *whole where the table ends there. NULL: there are none.
    dti_row *(*fill)(dti_rows *, dti_table, dti_key, bool *whole);
    // The operation is kept and has changed this row (also: deleted it).
    void (*changed)(dti_rows *, dti_row *);
} dti_backing;

struct dti_rows {
    dti_store store;             // first: a store is its rows
    const dti_backing *backing;  // NULL: there is nothing else
    dti_slab slab;
    dti_row **buckets;
    size_t nbuckets, npoint;
    struct dti_tree trees[DTI_TABLE_COUNT - DTI_T_ORDERED];
    bool whole[DTI_TABLE_COUNT - DTI_T_ORDERED]; // nothing unknown behind the last
    dti_undo *undo;
    size_t nundo, cundo;
    dti_arena copies;
    bool hashing;                // keep `hash` as operations end
    uint64_t hash;               // sum of the hashes of all rows
};

bool dti_rows_init(dti_rows *, const dti_backing *); // false: no memory
void dti_rows_done(dti_rows *);
void dti_rows_keep(dti_rows *);
void dti_rows_undo(dti_rows *);
void dti_rows_drop(dti_rows *);  // forgets everything; between operations
// A row from the backing; what is known already wins. NULL: no memory.
dti_row *dti_rows_learn(dti_rows *, dti_table, dti_key, const void *bytes, size_t n);
void dti_rows_forget(dti_rows *, dti_row *); // this entry; what a tree knew around it stays true
uint64_t dti_rows_hash(dti_rows *);
_Noreturn void dti_rows_raise(dti_rows *, dtask_err); // the detail is set
static inline bool dti_key_eq(dti_key x, dti_key y) { return x.a == y.a && x.b == y.b && x.c == y.c; }
