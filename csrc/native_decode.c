/* Reading order: native_format.h, native_decode, decode_items, decode_code, then the rest. */
#include "native_decode.h"

#if NATIVE_SUPPORTED

#include <stdlib.h>
#include <string.h>

#include "checksum.h"

/* What a reference can mean. */
enum reference_kind { TO_SHARED, TO_MEMO };

struct reader {
    struct native_context *context;
    const unsigned char *at, *end;
    PyObject **objects[2]; /* enum reference_kind; of the shared table there are none inside itself */
    uint32_t counts[2];
    uint32_t memo_capacity;
    int depth;
};

static PyObject *decode_new_object(struct reader *reader);

/* ---- numbers ---- */

static inline size_t
left(const struct reader *reader)
{
    return (size_t)(reader->end - reader->at);
}

/* A varint; negative: malformed. Results by value, here and below: locals whose address is taken cost a stack check in
   each of the functions that run tens of thousands of times (-fstack-protector-strong, with which distributions
   build). */
static int64_t
read_varint_slowly(struct reader *reader)
{
    uint64_t result = 0;
    for (int shift = 0; shift < 35; shift += 7) {
        if (reader->at == reader->end) {
            return -1;
        }
        unsigned char byte = *reader->at++;
        result |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            return result <= UINT32_MAX ? (int64_t)result : -1;
        }
    }
    return -1;
}

static inline int64_t
read_varint(struct reader *reader)
{
    return reader->at < reader->end && *reader->at < 0x80 ? *reader->at++ : read_varint_slowly(reader);
}

/* A count of things that take `unit` bytes of the stream each, or more; negative: malformed. */
static inline int64_t
read_size(struct reader *reader, size_t unit)
{
    int64_t count = read_varint(reader);
    return count >= 0 && (uint64_t)count * unit <= left(reader) ? count : -1;
}

static inline bool
read_fixed(struct reader *reader, void *value, size_t size)
{
    if (left(reader) < size) {
        return false;
    }
    memcpy(value, reader->at, size);
    reader->at += size;
    return true;
}

/* ---- references ---- */

static inline PyObject *
referred_object(struct reader *reader, enum reference_kind kind, uint32_t index)
{
    if (index >= reader->counts[kind]) {
        return NULL;
    }
    PyObject *object = reader->objects[kind][index];
    return object != NULL ? object : native_shared_entry(reader->context, index); /* the memo has no gaps */
}

/* `count` objects, or references to ones that are there already, into `items`. References are counted only if the items
   get an owner that may be freed (`owned`): all other things that are made live as long as the process, and
   keep_tracked_object sees to it that the collector doesn't wonder.

   Which kind of reference comes next can't be foretold, and a wrong guess of the processor costs more than all the
   rest: kind and index are computed, without branches. */
static inline bool
decode_references(struct reader *reader, PyObject **items, int64_t count, bool owned)
{
    const unsigned char *at = reader->at, *const end = reader->end;
    for (int64_t i = 0; i < count; i++) {
        if (at == end) {
            return false;
        }
        unsigned int first = *at;
        PyObject *item;
        if (first < 0x40) {
            reader->at = at;
            item = decode_new_object(reader);
            at = reader->at;
            if (owned && item != NULL && (first & NATIVE_MEMO || first >= NATIVE_MEMO_FAR)) {
                Py_INCREF(item); /* its first reference is the memo's, or the table's */
            }
        }
        else {
            unsigned int wide = first >> 7; /* two bytes */
            if ((size_t)(end - at) <= wide) {
                return false;
            }
            enum reference_kind kind = (first & 0xc0) == 0x80 ? TO_MEMO : TO_SHARED;
            uint32_t index = (first & 0x3f) << 8 * wide | (at[wide] & -wide);
            index += first >= 0xc0 ? NATIVE_SHARED_NEAR : 0;
            item = referred_object(reader, kind, index);
            at += 1 + wide;
            if (owned) {
                Py_XINCREF(item);
            }
        }
        if (item == NULL) {
            return false;
        }
        items[i] = item;
    }
    reader->at = at;
    return true;
}

static inline bool
decode_items(struct reader *reader, PyObject **items, int64_t count)
{
    return decode_references(reader, items, count, false);
}

/* The same for something that may be freed: it owns a reference to each of its items. */
static bool
decode_own_items(struct reader *reader, PyObject **items, int64_t count)
{
    return decode_references(reader, items, count, true);
}

/* ---- objects in the arena ---- */

static void *
take(struct reader *reader, size_t size)
{
    void *memory = native_arena_take(&reader->context->arena, size);
    if (memory == NULL) {
        PyErr_NoMemory();
    }
    return memory;
}

static inline void
set_head(PyObject *object, PyTypeObject *type)
{
    native_set_immortal(object);
    object->ob_type = type;
}

/* As marshal makes them: the empty bytes are one object, and those of one byte are where it has them so. */
static PyObject *
decode_bytes(struct reader *reader)
{
    int64_t size = read_size(reader, 1);
    if (size <= 0) {
        return size < 0 ? NULL : PyBytes_FromStringAndSize(NULL, 0);
    }
    if (size == 1 && reader->context->layout.single_bytes) {
        return PyBytes_FromStringAndSize((const char *)reader->at++, 1);
    }
    PyBytesObject *bytes = take(reader, offsetof(PyBytesObject, ob_sval) + (size_t)size + 1);
    if (bytes == NULL) {
        return NULL;
    }
    memcpy(bytes, &reader->context->bytes_head, offsetof(PyBytesObject, ob_sval));
    ((PyVarObject *)bytes)->ob_size = size;
    memcpy(bytes->ob_sval, reader->at, (size_t)size);
    bytes->ob_sval[size] = '\0';
    reader->at += size;
    return (PyObject *)bytes;
}

/* The interpreter's own object for that string; takes over the reference. */
static PyObject *
intern(const struct native_context *context, PyObject *text)
{
    native_intern_in_place(&context->layout, &text);
    native_keep_forever(text);
    return text;
}

/* Not in the arena: the empty string and those of one character are single objects, and a debug interpreter checks that
   immortal strings are interned and its own (Objects/unicodeobject.c, _PyUnicode_CheckConsistency, 3.13 on), and frees
   those that are interned at its end (_PyUnicode_ClearInterned, 3.12 on). */
static PyObject *
ascii_on_heap(const unsigned char *characters, size_t length)
{
    if (length == 1) {
        return PyUnicode_FromOrdinal(*characters);
    }
    PyObject *text = PyUnicode_New((Py_ssize_t)length, 127);
    if (text != NULL && length != 0) {
        memcpy(PyUnicode_1BYTE_DATA(text), characters, length);
    }
    return text;
}

enum interning { NOT_INTERNED, INTERNED, INTERNED_STATIC };

/* A string in the arena becomes an interned one, or gives way to it. */
static PyObject *
intern_in_arena(struct native_context *context, PyASCIIObject *text, size_t bytes, enum interning interning)
{
    PyObject *known = interning == INTERNED_STATIC ? NULL : native_intern(&context->layout, (PyObject *)text);
    if (known == (PyObject *)text) {
        return known;
    }
    known = intern(context, (PyObject *)text);
    if (known != (PyObject *)text) {
        native_arena_return(&context->arena, text, bytes);
    }
    else {
        native_claim_interned(known);
    }
    return known;
}

static PyObject *
decode_ascii(struct reader *reader, enum interning interning)
{
    struct native_context *context = reader->context;
    int64_t length = read_size(reader, 1);
    if (length < 0) {
        return NULL;
    }
    const unsigned char *characters = reader->at;
    reader->at += length;
    if (length < 2 || context->layout.debug) {
        PyObject *text = ascii_on_heap(characters, (size_t)length);
        return text == NULL || interning == NOT_INTERNED ? text : intern(context, text);
    }
    size_t bytes = sizeof(PyASCIIObject) + (size_t)length + 1;
    PyASCIIObject *text = take(reader, bytes);
    if (text == NULL) {
        return NULL;
    }
    memcpy(text, &context->ascii_head, sizeof(*text));
    text->length = length;
    unsigned char *copy = (unsigned char *)(text + 1);
    memcpy(copy, characters, (size_t)length);
    copy[length] = '\0';
    return interning == NOT_INTERNED ? (PyObject *)text : intern_in_arena(context, text, bytes, interning);
}

/* Strings that are not ASCII are rare: made on the heap, where their layout is CPython's business. */
static PyObject *
decode_wide(struct reader *reader, bool interned)
{
    static const Py_UCS4 widest[] = {0, 0xff, 0xffff, 0, 0x10ffff};
    unsigned char kind;
    int64_t length;
    if (!read_fixed(reader, &kind, 1) || kind > 4 || widest[kind] == 0 || (length = read_size(reader, kind)) <= 0) {
        return NULL;
    }
    if (kind == 4) { /* a character beyond Unicode would break CPython's own tables */
        for (int64_t i = 0; i < length; i++) {
            uint32_t character;
            memcpy(&character, reader->at + 4 * i, 4);
            if (character > 0x10ffff) {
                return NULL;
            }
        }
    }
    PyObject *text = PyUnicode_New(length, widest[kind]);
    if (text == NULL) {
        return NULL;
    }
    memcpy(PyUnicode_DATA(text), reader->at, (size_t)length * kind);
    reader->at += length * kind;
    return interned ? intern(reader->context, text) : text;
}

static PyObject *
decode_character(struct reader *reader, bool interned)
{
    unsigned char character;
    if (!read_fixed(reader, &character, 1)) {
        return NULL;
    }
    PyObject *text = PyUnicode_FromOrdinal(character);
    return text == NULL || !interned ? text : intern(reader->context, text);
}

static PyObject *
decode_bytes_once(struct reader *reader)
{
    int64_t size = read_size(reader, 1);
    const char *bytes = (const char *)reader->at;
    reader->at += Py_MAX(size, 0);
    return size < 0 ? NULL : PyBytes_FromStringAndSize(bytes, size);
}

static PyObject *
decode_float(struct reader *reader)
{
    double value;
    PyFloatObject *number;
    if (!read_fixed(reader, &value, sizeof(value)) || (number = take(reader, sizeof(*number))) == NULL) {
        return NULL;
    }
    set_head((PyObject *)number, &PyFloat_Type);
    memcpy(&number->ob_fval, &value, sizeof(value));
    return (PyObject *)number;
}

static PyObject *
decode_complex(struct reader *reader)
{
    Py_complex value;
    PyComplexObject *number;
    if (!read_fixed(reader, &value, sizeof(value)) || (number = take(reader, sizeof(*number))) == NULL) {
        return NULL;
    }
    set_head((PyObject *)number, &PyComplex_Type);
    memcpy(&number->cval, &value, sizeof(value));
    return (PyObject *)number;
}

static PyObject *
decode_hex(struct reader *reader)
{
    int64_t size = read_size(reader, 1);
    if (size <= 0 || reader->at[size - 1] != '\0' || strlen((const char *)reader->at) != (size_t)size - 1) {
        return NULL;
    }
    PyObject *number = PyLong_FromString((const char *)reader->at, NULL, 16);
    reader->at += size;
    if (number == NULL && PyErr_ExceptionMatches(PyExc_ValueError)) {
        PyErr_Clear();
    }
    return number;
}

/* ---- containers ---- */

#define GC_HEAD_BYTES (2 * sizeof(uintptr_t)) /* Include/internal/pycore_gc.h, PyGC_Head: the same since 3.8 */

static PyObject *
decode_tuple(struct reader *reader)
{
    int64_t size = read_size(reader, 1);
    if (size <= 0) {
        return size < 0 ? NULL : PyTuple_New(0);
    }
    unsigned char *memory =
        take(reader, GC_HEAD_BYTES + offsetof(PyTupleObject, ob_item) + (size_t)size * sizeof(PyObject *));
    if (memory == NULL) {
        return NULL;
    }
    memset(memory, 0, GC_HEAD_BYTES);
    PyTupleObject *tuple = (PyTupleObject *)(memory + GC_HEAD_BYTES);
    set_head((PyObject *)tuple, &PyTuple_Type);
    native_set_tuple_size(tuple, size);
    return decode_items(reader, tuple->ob_item, size) ? (PyObject *)tuple : NULL;
}

/* Not in the arena: a tuple that the collector tracks, or one of code that runs once. */
static PyObject *
decode_ordinary_tuple(struct reader *reader, bool tracked)
{
    int64_t size = read_size(reader, 1);
    PyObject *tuple = size < 0 ? NULL : PyTuple_New(size);
    if (tuple == NULL || size == 0) {
        return tuple;
    }
    PyObject_GC_UnTrack(tuple); /* until it is complete: gc.get_objects() would hand it out */
    if (!decode_own_items(reader, ((PyTupleObject *)tuple)->ob_item, size)) {
        Py_DECREF(tuple);
        return NULL;
    }
    if (tracked) {
        PyObject_GC_Track(tuple);
    }
    return tuple;
}

/* Objects/sliceobject.c, PySlice_New: counts its own references to the three. */
static PyObject *
decode_slice(struct reader *reader)
{
    PyObject *items[3];
    return decode_items(reader, items, 3) ? PySlice_New(items[0], items[1], items[2]) : NULL;
}

static PyObject *
decode_frozenset(struct reader *reader)
{
    int64_t size = read_size(reader, 1);
    PyObject *set = size < 0 ? NULL : PyFrozenSet_New(NULL);
    if (set == NULL) {
        return NULL;
    }
    for (int64_t i = 0; i < size; i++) {
        PyObject *item;
        if (!decode_items(reader, &item, 1) || PySet_Add(set, item) < 0) {
            return NULL;
        }
    }
    return set;
}

/* What a code object starts with, up to its code units. */
static bool
read_code_numbers(struct reader *reader, struct native_code_parts *parts)
{
    for (int i = 0; i < NATIVE_CODE_NUMBERS; i++) {
        int64_t number = read_varint(reader);
        if (number < 0) {
            return false;
        }
        parts->numbers[i] = (int)(uint32_t)number; /* those that may not be negative are checked with the rest */
    }
    parts->units = read_size(reader, NATIVE_UNIT_BYTES);
    return parts->units > 0;
}

/* varints argcount, posonlyargcount, kwonlyargcount, stacksize, flags, firstlineno, firsttraceable, code units; the
   adaptive code; then the objects in marshal's order (native_layout.h, enum native_code_object). */
static PyObject *
decode_code(struct reader *reader)
{
    struct native_code_parts parts;
    if (!read_code_numbers(reader, &parts)) {
        return NULL;
    }
    size_t bytes = (size_t)parts.units * NATIVE_UNIT_BYTES;
    PyCodeObject *code = take(reader, NATIVE_CODE_HEAD + bytes);
    if (code == NULL) {
        return NULL;
    }
    memcpy(code->co_code_adaptive, reader->at, bytes);
    reader->at += bytes;
    if (!decode_items(reader, parts.objects, NATIVE_CODE_OBJECTS)) {
        return NULL;
    }
    return native_code_fill(&reader->context->layout, code, &parts) ? (PyObject *)code : NULL;
}

/* Code that runs once is an ordinary object: when it has run it is freed, with its tuples and tables, and the next
   module is given their memory. */
static PyObject *
decode_code_once(struct reader *reader)
{
    struct native_code_parts parts;
    memset(&parts, 0, sizeof(parts));
    if (!read_code_numbers(reader, &parts)) {
        return NULL;
    }
    size_t bytes = (size_t)parts.units * NATIVE_UNIT_BYTES;
    PyCodeObject *code = PyObject_Malloc(NATIVE_CODE_HEAD + bytes);
    if (code == NULL) {
        return PyErr_NoMemory();
    }
    memcpy(code->co_code_adaptive, reader->at, bytes);
    reader->at += bytes;
    if (!decode_own_items(reader, parts.objects, NATIVE_CODE_OBJECTS)
        || !native_code_fill(&reader->context->layout, code, &parts)) {
        for (int i = 0; i < NATIVE_CODE_OBJECTS; i++) {
            Py_XDECREF(parts.objects[i]);
        }
        PyObject_Free(code);
        return NULL;
    }
    return PyObject_Init((PyObject *)code, &PyCode_Type);
}

/* ---- the shared table ---- */

static bool
block_is_sound(struct native_context *context, uint32_t index, uint32_t entries)
{
    const struct native_block_record *record = &context->records[index];
    if (record->offset > context->table_bytes || record->bytes > context->table_bytes - record->offset
        || record->offset % sizeof(uint16_t)) {
        return false;
    }
    const uint32_t place[] = {record->offset, record->bytes, index};
    const unsigned char *block = context->table + record->offset;
    if ((pycds_checksum(block, record->bytes) ^ pycds_checksum(place, sizeof(place))) != record->checksum) {
        return false;
    }
    size_t previous = (entries + 1) * sizeof(uint16_t);
    for (uint32_t i = 0; i <= entries; i++) {
        uint16_t offset;
        if ((i + 1) * sizeof(offset) > record->bytes) {
            return false;
        }
        memcpy(&offset, block + i * sizeof(offset), sizeof(offset));
        if (offset < previous || offset > record->bytes) {
            return false;
        }
        previous = offset;
    }
    return true;
}

PyObject *
native_shared_entry(struct native_context *context, uint32_t index)
{
    if (index >= context->entry_count) {
        return NULL;
    }
    if (context->slots[index] != NULL) {
        return context->slots[index];
    }
    uint32_t block_index = index / NATIVE_BLOCK_ENTRIES;
    uint32_t first = block_index * NATIVE_BLOCK_ENTRIES;
    uint32_t entries = Py_MIN((uint32_t)NATIVE_BLOCK_ENTRIES, context->entry_count - first);
    if (!context->verified[block_index]) {
        if (!block_is_sound(context, block_index, entries)) {
            return NULL;
        }
        context->verified[block_index] = 1;
    }
    const unsigned char *block = context->table + context->records[block_index].offset;
    uint16_t offsets[2];
    memcpy(offsets, block + (index - first) * sizeof(uint16_t), sizeof(offsets));
    struct reader reader = {.context = context, .at = block + offsets[0], .end = block + offsets[1]};
    if (offsets[0] == offsets[1] || *reader.at < NATIVE_BYTES || *reader.at > NATIVE_CHARACTER_INTERNED) {
        return NULL;
    }
    PyObject *object = decode_new_object(&reader);
    if (object == NULL || reader.at != reader.end) {
        return NULL;
    }
    return context->slots[index] = object;
}

/* ---- any new object ---- */

static PyObject *
decode_int(struct reader *reader, size_t size)
{
    int8_t narrow;
    int32_t middle;
    int64_t wide;
    switch (size) {
    case sizeof(narrow):
        return read_fixed(reader, &narrow, size) ? PyLong_FromLong(narrow) : NULL;
    case sizeof(middle):
        return read_fixed(reader, &middle, size) ? PyLong_FromLong(middle) : NULL;
    default:
        return read_fixed(reader, &wide, sizeof(wide)) ? PyLong_FromLongLong(wide) : NULL;
    }
}

static PyObject *
decode_far_reference(struct reader *reader, enum native_tag tag)
{
    uint32_t index;
    if (!read_fixed(reader, &index, sizeof(index))) {
        return NULL;
    }
    return referred_object(reader, tag == NATIVE_MEMO_FAR ? TO_MEMO : TO_SHARED, index);
}

static PyObject *
decode_container(struct reader *reader, enum native_tag tag)
{
    if (reader->depth == NATIVE_DEPTH_LIMIT) {
        return NULL;
    }
    reader->depth++;
    PyObject *object = tag == NATIVE_TUPLE           ? decode_tuple(reader)
                       : tag == NATIVE_CODE          ? decode_code(reader)
                       : tag == NATIVE_CODE_ONCE     ? decode_code_once(reader)
                       : tag == NATIVE_TUPLE_ONCE    ? decode_ordinary_tuple(reader, false)
                       : tag == NATIVE_TUPLE_TRACKED ? decode_ordinary_tuple(reader, true)
                       : tag == NATIVE_SLICE         ? decode_slice(reader)
                                                     : decode_frozenset(reader);
    reader->depth--;
    return object;
}

static inline PyObject *
decode_tagged(struct reader *reader, enum native_tag tag)
{
    switch (tag) {
    case NATIVE_NONE:
        return Py_NewRef(Py_None);
    case NATIVE_FALSE:
        return Py_NewRef(Py_False);
    case NATIVE_TRUE:
        return Py_NewRef(Py_True);
    case NATIVE_ELLIPSIS:
        return Py_NewRef(Py_Ellipsis);
    case NATIVE_INT8:
        return decode_int(reader, sizeof(int8_t));
    case NATIVE_INT32:
        return decode_int(reader, sizeof(int32_t));
    case NATIVE_INT64:
        return decode_int(reader, sizeof(int64_t));
    case NATIVE_INT_HEX:
        return decode_hex(reader);
    case NATIVE_FLOAT:
        return decode_float(reader);
    case NATIVE_COMPLEX:
        return decode_complex(reader);
    case NATIVE_BYTES:
        return decode_bytes(reader);
    case NATIVE_BYTES_ONCE:
        return decode_bytes_once(reader);
    case NATIVE_ASCII:
        return decode_ascii(reader, NOT_INTERNED);
    case NATIVE_ASCII_INTERNED:
        return decode_ascii(reader, INTERNED);
    case NATIVE_ASCII_STATIC:
        return decode_ascii(reader, INTERNED_STATIC);
    case NATIVE_WIDE:
        return decode_wide(reader, false);
    case NATIVE_WIDE_INTERNED:
        return decode_wide(reader, true);
    case NATIVE_CHARACTER:
        return decode_character(reader, false);
    case NATIVE_CHARACTER_INTERNED:
        return decode_character(reader, true);
    case NATIVE_TUPLE:
    case NATIVE_TUPLE_TRACKED:
    case NATIVE_FROZENSET:
    case NATIVE_SLICE:
    case NATIVE_CODE:
    case NATIVE_TUPLE_ONCE:
    case NATIVE_CODE_ONCE:
        return decode_container(reader, tag);
    case NATIVE_MEMO_FAR:
    case NATIVE_SHARED_FAR:
        return decode_far_reference(reader, tag);
    case NATIVE_TAGS:
        break;
    }
    return NULL;
}

/* The memo gives out references that it doesn't count. The collector compares counts with the references that it sees
   (Modules/gcmodule.c or Python/gc.c, subtract_refs): an object that it tracks gets a surplus, as if something that it
   doesn't see held it. */
static inline void
keep_tracked_object(PyObject *object, unsigned int tag)
{
    if (tag == NATIVE_FROZENSET || tag == NATIVE_TUPLE_TRACKED || tag == NATIVE_SLICE) {
        Py_SET_REFCNT(object, Py_REFCNT(object) + (1 << 28));
    }
}

/* The object at reader->at, where a tag is. */
static PyObject *
decode_new_object(struct reader *reader)
{
    unsigned char first = *reader->at++;
    enum native_tag tag = first & ~NATIVE_MEMO;
    PyObject *object = decode_tagged(reader, tag);
    if (object != NULL && first & NATIVE_MEMO) {
        if (reader->counts[TO_MEMO] == reader->memo_capacity) {
            return NULL;
        }
        keep_tracked_object(object, tag);
        reader->objects[TO_MEMO][reader->counts[TO_MEMO]++] = object;
    }
    return object;
}

/* `count` byte strings that are used where they are. If the stream was decoded before, programs may have left their
   marks: counts of references (3.11), and a hash, which is not believed. */
static bool
take_in_place(struct reader *reader, PyObject **memo, int64_t count)
{
    const size_t head = offsetof(PyBytesObject, ob_sval), hash = sizeof(PyVarObject);
    const unsigned char *const model = (const unsigned char *)&reader->context->bytes_head;
    for (int64_t i = 0; i < count; i++) {
        size_t padding = -(uintptr_t)reader->at & 7;
        if (left(reader) < padding + head) {
            return false;
        }
        unsigned char *at = (unsigned char *)(uintptr_t)reader->at + padding;
        PyBytesObject *bytes = (PyBytesObject *)at;
        Py_ssize_t size = ((PyVarObject *)bytes)->ob_size;
        if (((PyObject *)bytes)->ob_type != &PyBytes_Type || !native_is_immortal((PyObject *)bytes) || size <= 0
            || (size_t)size >= left(reader) - padding - head || at[head + (size_t)size] != '\0') {
            return false;
        }
        if (memcmp(at + hash, model + hash, head - hash) != 0) {
            memcpy(at + hash, model + hash, head - hash);
        }
        reader->at += padding + head + (size_t)size + 1;
        memo[i] = (PyObject *)bytes;
    }
    return true;
}

/* What the memo starts with: see native_format.h. */
static bool
decode_groups(struct reader *reader)
{
    int64_t interned = read_size(reader, 1), plain = read_size(reader, 1), bytes = read_size(reader, 1);
    int64_t in_place = read_size(reader, 1);
    if (interned < 0 || plain < 0 || bytes < 0 || in_place < 0
        || interned + plain + bytes + in_place > reader->memo_capacity) {
        return false;
    }
    PyObject **memo = reader->objects[TO_MEMO];
    for (int64_t i = 0; i < interned; i++) {
        if ((*memo++ = decode_ascii(reader, INTERNED)) == NULL) {
            return false;
        }
    }
    for (int64_t i = 0; i < plain; i++) {
        if ((*memo++ = decode_ascii(reader, NOT_INTERNED)) == NULL) {
            return false;
        }
    }
    for (int64_t i = 0; i < bytes; i++) {
        if ((*memo++ = decode_bytes(reader)) == NULL) {
            return false;
        }
    }
    if (in_place != 0
        && (!reader->context->streams_stay || !reader->context->layout.fixed_types
            || !take_in_place(reader, memo, in_place))) {
        return false;
    }
    reader->counts[TO_MEMO] = (uint32_t)(interned + plain + bytes + in_place);
    return true;
}

PyObject *
native_decode(struct native_context *context, const unsigned char *stream, size_t size)
{
    struct reader reader = {.context = context, .at = stream, .end = stream + size};
    int64_t memo_capacity = (uintptr_t)stream % 8 ? -1 : read_size(&reader, 1);
    if (memo_capacity < 0 || !native_layout_may_make_code(&context->layout)) {
        return NULL;
    }
    /* Of this call alone: making a frozenset may start a collection, whose callbacks may import. */
    PyObject **memo = PyMem_Malloc((size_t)memo_capacity * sizeof(PyObject *)), *code;
    if (memo == NULL) {
        return PyErr_NoMemory();
    }
    reader.objects[TO_SHARED] = context->slots;
    reader.counts[TO_SHARED] = context->entry_count;
    reader.objects[TO_MEMO] = memo;
    reader.memo_capacity = (uint32_t)memo_capacity;
    if (!decode_groups(&reader) || !decode_own_items(&reader, &code, 1) || !PyCode_Check(code)
        || reader.at != reader.end) {
        code = NULL;
    }
    PyMem_Free(memo);
    if (code == NULL && PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyErr_Clear(); /* malformed in its own way: a frozenset of what can't be hashed, say */
    }
    return code;
}

/* ---- the context ---- */

/* A string that is nobody's, to learn how its head looks: state bits differ between versions. */
static const char *
learn_ascii_head(PyASCIIObject *head)
{
    PyObject *text = PyUnicode_New(2, 127);
    if (text == NULL) {
        PyErr_Clear();
        return "out of memory";
    }
    bool expected = PyUnicode_IS_COMPACT_ASCII(text) && PyUnicode_DATA(text) == (void *)((PyASCIIObject *)text + 1)
                    && !PyUnicode_CHECK_INTERNED(text) && ((PyASCIIObject *)text)->hash == -1;
    memcpy(head, text, sizeof(*head));
    native_set_immortal((PyObject *)head);
    native_claim_string(head);
    Py_DECREF(text);
    return expected ? NULL : "layout of strings is not the expected one";
}

void
native_bytes_head(PyBytesObject *head)
{
    memset(head, 0, sizeof(*head));
    set_head((PyObject *)head, &PyBytes_Type);
    _Py_COMP_DIAG_PUSH
    _Py_COMP_DIAG_IGNORE_DEPR_DECLS
    head->ob_shash = -1;
    _Py_COMP_DIAG_POP
}

/* The head of the table, and that the block records lie inside; each block is checked when it is first used. */
static const char *
check_table(struct native_context *context)
{
    struct native_shared_head head;
    if (context->table_bytes == 0) {
        return NULL;
    }
    if (context->table_bytes < sizeof(head)) {
        return "archive damaged: shared table";
    }
    memcpy(&head, context->table, sizeof(head));
    if (pycds_checksum(&head, offsetof(struct native_shared_head, checksum)) != head.checksum
        || (uintptr_t)context->table % 8
        || head.block_count != ((uint64_t)head.entry_count + NATIVE_BLOCK_ENTRIES - 1) / NATIVE_BLOCK_ENTRIES
        || head.block_count > (context->table_bytes - sizeof(head)) / sizeof(struct native_block_record)) {
        return "archive damaged: shared table";
    }
    context->entry_count = head.entry_count;
    context->block_count = head.block_count;
    context->records = (const struct native_block_record *)(context->table + sizeof(head));
    return NULL;
}

const char *
native_open(struct native_context *context, const unsigned char *table, size_t size, bool streams_stay)
{
    memset(context, 0, sizeof(*context));
    context->table = table;
    context->table_bytes = size;
    context->streams_stay = streams_stay;
    const char *reason = native_layout_check(&context->layout);
    if (reason == NULL) {
        reason = learn_ascii_head(&context->ascii_head);
    }
    native_bytes_head(&context->bytes_head);
    if (reason == NULL) {
        reason = check_table(context);
    }
    if (reason == NULL && context->entry_count != 0) {
        context->slots = calloc(context->entry_count, sizeof(PyObject *));
        context->verified = calloc(context->block_count, 1);
        if (context->slots == NULL || context->verified == NULL) {
            reason = "out of memory";
        }
    }
    if (reason != NULL) {
        native_close(context);
    }
    return reason;
}

void
native_close(struct native_context *context)
{
    free(context->slots);
    free(context->verified);
    memset(context, 0, sizeof(*context));
}

#endif
