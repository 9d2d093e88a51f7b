#include "native_arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifndef MAP_POPULATE
#define MAP_POPULATE 0
#endif

#define FIRST_CHUNK ((size_t)16 * 1024)
#define LAST_CHUNK ((size_t)256 * 1024)
#define PAGE ((size_t)4096)

void *
native_arena_take_slowly(struct native_arena *arena, size_t size)
{
#ifdef NATIVE_ARENA_MALLOC /* the fuzz harness: a block each, so that AddressSanitizer sees every overrun */
    arena->mapped += size;
    return malloc(size ? size : 1);
#else
    if (size > SIZE_MAX / 2) {
        return NULL;
    }
    size += size == 0;
    size_t head = sizeof(struct native_chunk);
    if (arena->next_chunk == 0) {
        arena->next_chunk = FIRST_CHUNK;
    }
    size_t bytes = arena->next_chunk;
    int own_chunk = size > bytes / 4; /* something large: the rest of the chunk in use stays in use */
    if (own_chunk) {
        bytes = (size + head + PAGE - 1) & ~(PAGE - 1);
    }
    void *chunk = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (chunk == MAP_FAILED) {
        return NULL;
    }
    arena->mapped += bytes;
    *(struct native_chunk *)chunk = (struct native_chunk){arena->newest, bytes};
    arena->newest = chunk;
    if (own_chunk) {
        return (unsigned char *)chunk + head;
    }
    if (arena->next_chunk < LAST_CHUNK) {
        arena->next_chunk *= 2;
    }
    arena->at = (unsigned char *)chunk + head;
    arena->end = (unsigned char *)chunk + bytes;
    return native_arena_take(arena, size);
#endif
}
