#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "frame_chunks.h"

#include <stdatomic.h>

#define CHUNK_BYTES ((size_t)16 * 1024) /* Python/pystate.c, DATA_STACK_CHUNK_SIZE; arenas of objects are larger */

/* Of the process, as the allocator is: interpreters in it, one after the other or at once, share both. Frames are freed
   by threads without the GIL, too (Python/pystate.c, PyThreadState_Delete), hence atomic. */
static PyObjectArenaAllocator before;
static _Atomic(void *) kept;

static void *
chunk_alloc(void *context, size_t size)
{
    (void)context;
    void *chunk = size == CHUNK_BYTES ? atomic_exchange(&kept, NULL) : NULL;
    return chunk != NULL ? chunk : before.alloc(before.ctx, size);
}

static void
chunk_free(void *context, void *memory, size_t size)
{
    (void)context;
    void *none = NULL;
    if (size != CHUNK_BYTES || !atomic_compare_exchange_strong(&kept, &none, memory)) {
        before.free(before.ctx, memory, size);
    }
}

void
frame_chunks_keep_one(void)
{
    if (before.alloc == NULL) { /* not asked of the allocator: another may have come on top of ours */
        PyObject_GetArenaAllocator(&before);
        PyObjectArenaAllocator ours = {.ctx = NULL, .alloc = chunk_alloc, .free = chunk_free};
        PyObject_SetArenaAllocator(&ours);
    }
}
