/* The `native` encoding of code objects (native_format.h): what the rebuilder writes. */
#ifndef PYCDS_NATIVE_ENCODE_H
#define PYCDS_NATIVE_ENCODE_H

#include "native_layout.h"

#if NATIVE_SUPPORTED

#include "native_decode.h"

/* Encodes code objects as marshal.loads makes them, never executed since. `codes`: sequence of code objects; `orders`:
   sequence of, for each, the sequence of its frozensets' items in the order of the marshalled form (sequences of
   objects equal to the items; frozensets of two items or more, counted where their encoding begins).

   `base` (may be NULL) is a context of an older image: the new shared table begins with its entries, with the same
   numbers, so that streams encoded for it are good for the new table too.

   Returns a tuple (shared table: bytes, list of streams: bytes, or str with the reason why a module can't be encoded),
   or NULL with an exception. */
PyObject *native_encode(struct native_context *base, PyObject *codes, PyObject *orders);

/* Decodes a stream as a loader would, and compares with what marshal makes of the same module, `marshalled`: by type
   and value, fields and identities. None if they are equal; else a str that says where they differ; NULL with an
   exception. It works on a copy of the stream, which decoding may change. */
PyObject *native_verify(struct native_context *context, PyObject *stream, PyObject *marshalled);

#endif
#endif
