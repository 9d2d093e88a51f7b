/* Code objects out of the `native` encoding (native_format.h).

   What is made equals what marshal would have made of the module's pyc, object for object: types, values, interned
   strings, which constants are the same object. It differs in where it lies and how long it lives: tuples, byte
   strings, floats, ASCII strings and code objects are built in an arena and are immortal; the few others are ordinary
   objects that an immortal one refers to. So a decoded module is never freed: decode each module once a process.

   Tuples in the arena are not tracked by the collector: it would untrack them the first time it met them
   (Objects/tupleobject.c, _PyTuple_MaybeUntrack). The exceptions are ordinary, tracked tuples here too
   (NATIVE_TUPLE_TRACKED). */
#ifndef PYCDS_NATIVE_DECODE_H
#define PYCDS_NATIVE_DECODE_H

#include "native_layout.h"

#if NATIVE_SUPPORTED

#include "native_arena.h"
#include "native_format.h"

/* What the decoder keeps of one image in one interpreter. */
struct native_context {
    struct native_layout layout;
    struct native_arena arena;
    bool streams_stay; /* see native_open */
    PyBytesObject bytes_head; /* of any byte string, its size left out */
    PyASCIIObject ascii_head; /* of any compact ASCII string that is not interned: copied, then given its length */

    const unsigned char *table; /* the shared table in the mapping; 8-byte aligned */
    size_t table_bytes;
    uint32_t entry_count, block_count;
    const struct native_block_record *records;
    PyObject **slots; /* entry -> object, NULL until it is wanted; owned, never emptied */
    unsigned char *verified; /* block -> its checksum was right; owned */
};

/* Prepares a context for the image's shared table, `size` bytes at `table` (0: there is none), which must stay in place
   until native_close. `streams_stay`: all streams lie in private, writable memory that stays as long as the process,
   at multiples of 8; without that, those with byte strings in place are refused. NULL, or a reason (static text) to use
   the `marshal` encoding instead; then the context is all zero. Never raises. Constant work; memory for the slots is
   reserved, and used as they are filled. */
const char *native_open(struct native_context *context, const unsigned char *table, size_t size, bool streams_stay);

/* Forgets the slots. The objects, and the arena, stay. */
void native_close(struct native_context *context);

/* The code object of a stream of `size` bytes. New reference. NULL with MemoryError; NULL without
   an exception if the stream is malformed, a block of the shared table is damaged, or code objects may not be made at
   present. Whatever the bytes are, nothing outside the stream and the table is read, recursion is bounded, and what is
   allocated is proportional to the stream. The caller has checked the checksum of the stream. Needs the GIL. */
PyObject *native_decode(struct native_context *context, const unsigned char *stream, size_t size);

/* The head of a byte string as the decoder makes it; size 0. */
void native_bytes_head(PyBytesObject *head);

/* Entry of the shared table, borrowed; NULL as above. For the encoder. */
PyObject *native_shared_entry(struct native_context *context, uint32_t index);

#endif
#endif
