// Chance for the simulator: one generator per seed, so that a seed is a run.
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint64_t s;
} prng;

static inline uint64_t prng_mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static inline uint64_t prng_next(prng *r) {
    return prng_mix(r->s += 0x9e3779b97f4a7c15u);
}
// 0 .. n-1; 0 where n is 0.
static inline uint32_t prng_below(prng *r, uint32_t n) {
    return (uint32_t)(((prng_next(r) >> 32) * n) >> 32);
}
static inline uint32_t prng_range(prng *r, uint32_t lo, uint32_t hi) {
    return lo + prng_below(r, hi - lo + 1);
}
// True n times in a thousand.
static inline bool prng_chance(prng *r, uint32_t n) {
    return prng_below(r, 1000) < n;
}
