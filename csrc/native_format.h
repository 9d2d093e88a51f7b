/* The `native` encoding: what the rebuilder writes (native_encode.c) and the loader decodes (native_decode.c).

   A module's payload is a stream:
     varint number of memo entries, varints of how many of them are in each of the four groups that follow:
     interned ASCII strings (but for NATIVE_ASCII_STATIC), other ASCII strings (each: varint length, two or more;
     characters), byte strings (each: varint size, one or more; bytes), byte strings in place (each, aligned to 8 bytes
     from the stream's start: a PyBytesObject as it lies in memory); one object, which is a code object.
   The groups are entries 0, 1, ... of the memo. Kept apart because a processor that can foretell what comes next is
   several times faster than one that can't.

   Byte strings in place are not decoded at all: the interpreter uses them where they are mapped. They are written where
   the type `bytes` has the same address in every process (native_layout.h, `fixed_types`), and save a seventh of the
   memory that a load would otherwise fill: what a load costs is mostly pages of memory. Line tables are nearly all of
   them, and nobody writes to those, not even their reference counts, before a program asks for one.

   The bodies of modules and of their classes run once. They are ordinary objects, which the interpreter frees when they
   have run, as it does without us; so are their tuples and tables, where nothing else refers to them. The rest is never
   freed.
   Interned strings that two modules or more have in common, and co_localspluskinds, which no program sees, are kept
   once per image, in the shared table; all else follows in the order in which it is needed. Other strings that are
   equal are different objects in different modules, as they are without us.

   An object starts with one byte:
     0x00-0x3f  a tag, below; with NATIVE_MEMO set, the object goes into the memo once it is complete
     0x40-0x7f  entry 0..63 of the shared table
     0x80-0xbf  memo entry ((byte & 0x3f) << 8 | next byte)
     0xc0-0xff  entry 64 + ((byte & 0x3f) << 8 | next byte) of the shared table
   Entries of the shared table are ordered by how many modules use them: most references take one or two bytes.

   varint: seven bits a byte, lowest first, the eighth says that more follow; at most five bytes and 32 bits. Numbers
   wider than a byte are in the machine's order (image.h, `byte_order`), unaligned.

   The shared table is a head, the block records, and blocks of 64 entries (the last may have fewer). A block is checked
   when the first of its entries is wanted: start-up costs nothing, and no flipped bit reaches the interpreter. A block
   is uint16_t[entries + 1], the offsets of the entries from the block's start, then the entries, each an object of the
   same form as in a stream, str or bytes only. */
#ifndef PYCDS_NATIVE_FORMAT_H
#define PYCDS_NATIVE_FORMAT_H

#include <stdint.h>

/* Changes with everything in this file, native_layout.c or the order of a stream's parts: an image of another revision
   is not used, and built anew. image.py has the same number. */
#define NATIVE_REVISION 5

#define NATIVE_MEMO 0x20

enum native_tag {
    NATIVE_NONE,
    NATIVE_FALSE,
    NATIVE_TRUE,
    NATIVE_ELLIPSIS,
    NATIVE_INT8, /* signed byte */
    NATIVE_INT32, /* int32_t */
    NATIVE_INT64, /* int64_t */
    NATIVE_INT_HEX, /* varint size; sign and hexadecimal digits, with a terminating zero that `size` counts */
    NATIVE_FLOAT, /* the eight bytes of the double */
    NATIVE_COMPLEX, /* real, imaginary */
    NATIVE_BYTES, /* varint size; bytes. In the shared table only, or empty */
    NATIVE_ASCII, /* varint length; characters. Empty: all others are in the groups */
    NATIVE_ASCII_INTERNED, /* not one of the strings that the interpreter itself contains (3.12 on) */
    NATIVE_ASCII_STATIC, /* one of these; interned */
    NATIVE_WIDE, /* byte kind (1, 2, 4), varint length, characters: str that is not ASCII, in its own kind */
    NATIVE_WIDE_INTERNED,
    NATIVE_CHARACTER, /* one byte: the str of that Latin-1 character, of which CPython has only one each */
    NATIVE_CHARACTER_INTERNED,
    NATIVE_TUPLE, /* varint size; objects */
    NATIVE_TUPLE_TRACKED, /* the same, for a tuple that the collector would keep tracking */
    NATIVE_FROZENSET, /* varint size; objects in the order in which marshal adds them */
    NATIVE_CODE, /* see native_decode.c, decode_code */
    NATIVE_SLICE, /* start, stop, step; a constant from 3.14 on */
    NATIVE_CODE_ONCE, /* as NATIVE_CODE, _TUPLE, _BYTES: code that runs once and its parts, to be freed then */
    NATIVE_TUPLE_ONCE,
    NATIVE_BYTES_ONCE, /* and byte strings among constants */
    NATIVE_MEMO_FAR, /* uint32_t index */
    NATIVE_SHARED_FAR, /* uint32_t index */
    NATIVE_TAGS,
};

#define NATIVE_SHARED_NEAR 64 /* entries with a one-byte reference */
#define NATIVE_SHARED_MIDDLE (NATIVE_SHARED_NEAR + (1 << 14)) /* entries below have a two-byte reference */
#define NATIVE_MEMO_NEAR (1 << 14)

#define NATIVE_DEPTH_LIMIT 200 /* of nesting; the encoder leaves modules out that need more */

#define NATIVE_BLOCK_ENTRIES 64
#define NATIVE_ENTRY_BYTES_LIMIT 512 /* longer ones aren't shared: offsets in a block have 16 bits */

struct native_shared_head {
    uint32_t entry_count;
    uint32_t block_count; /* entries / NATIVE_BLOCK_ENTRIES, rounded up */
    uint64_t checksum; /* pycds_checksum of the two numbers above */
};

struct native_block_record {
    uint32_t offset; /* from the table's start */
    uint32_t bytes;
    uint64_t checksum; /* pycds_checksum of the block, xor that of the two numbers above and the block's index */
};

#endif
