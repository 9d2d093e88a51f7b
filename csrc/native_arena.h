/* Memory for objects that live as long as the process: taken from large mappings, never given back.

   Chunks are mapped with MAP_POPULATE, since one system call for 128 pages is several times cheaper than 128 page
   faults; the first ones are smaller, so that a program with few modules doesn't hold pages that it never needs. */
#ifndef PYCDS_NATIVE_ARENA_H
#define PYCDS_NATIVE_ARENA_H

#include <stddef.h>

/* What a chunk begins with. */
struct native_chunk {
    struct native_chunk *previous;
    size_t bytes; /* with this */
};

struct native_arena {
    unsigned char *at, *end; /* what is left of the chunk in use */
    struct native_chunk *newest;
    size_t next_chunk; /* bytes; 0 at first */
    size_t mapped; /* bytes, in all */
};

/* `size` bytes, aligned for any object (8), contents undefined in part; NULL: out of memory. */
void *native_arena_take_slowly(struct native_arena *arena, size_t size);

static inline void *
native_arena_take(struct native_arena *arena, size_t size)
{
#ifndef NATIVE_ARENA_MALLOC
    if (size - 1 < (size_t)(arena->end - arena->at)) { /* size 0 goes the slow way: there may be no chunk yet */
        size_t rounded = (size + 7) & ~(size_t)7; /* chunks are whole pages: this can't pass `end` */
        void *memory = arena->at;
        arena->at += rounded;
        return memory;
    }
#endif
    return native_arena_take_slowly(arena, size);
}

/* Gives back the memory taken last, which starts at `memory`. */
static inline void
native_arena_return(struct native_arena *arena, void *memory, size_t size)
{
    unsigned char *start = memory;
    if (start + ((size + 7) & ~(size_t)7) == arena->at) {
        arena->at = start;
    }
}

#endif
