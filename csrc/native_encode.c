/* Two passes: the first counts which strings modules have in common, the second writes. Both walk a
   code object as marshal does (Python/marshal.c, w_complex_object, 3.11 to 3.15). */
#include "native_encode.h"

#if NATIVE_SUPPORTED

#include <marshal.h>

#include <stdlib.h>
#include <string.h>

#include "checksum.h"

#define RET_OK 0
#define RET_ERROR (-1)

/* ---- a map of objects by identity ---- */

struct seen {
    PyObject *object; /* NULL: empty */
    uint32_t uses;
    uint32_t memo; /* index + 1; 0: not in the memo yet */
    bool once; /* code that runs once, or a part of it: freed after that, if `uses` is 1 */
    bool counted; /* a byte string among constants: an ordinary object, whose references are counted */
};

struct seen_map {
    struct seen *slots; /* owned */
    size_t capacity; /* a power of two, or 0 */
    size_t used;
};

static struct seen *
probe(struct seen *slots, size_t capacity, PyObject *object)
{
    size_t at = ((uintptr_t)object >> 3) * (size_t)UINT64_C(0x9fb21c651e98df25) >> 20;
    while (slots[at & (capacity - 1)].object != NULL && slots[at & (capacity - 1)].object != object) {
        at++;
    }
    return &slots[at & (capacity - 1)];
}

/* The entry of an object, made if there is none; NULL with an exception. Valid until the next call. */
static struct seen *
seen_entry(struct seen_map *map, PyObject *object)
{
    if (2 * (map->used + 1) > map->capacity) {
        size_t capacity = map->capacity == 0 ? 256 : 4 * map->capacity;
        struct seen *slots = calloc(capacity, sizeof(*slots));
        if (slots == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        for (size_t i = 0; i < map->capacity; i++) {
            if (map->slots[i].object != NULL) {
                *probe(slots, capacity, map->slots[i].object) = map->slots[i];
            }
        }
        free(map->slots);
        map->slots = slots;
        map->capacity = capacity;
    }
    struct seen *entry = probe(map->slots, map->capacity, object);
    if (entry->object == NULL) {
        entry->object = object;
        map->used++;
    }
    return entry;
}

static void
seen_clear(struct seen_map *map)
{
    free(map->slots);
    memset(map, 0, sizeof(*map));
}

/* ---- the encoder ---- */

struct output {
    unsigned char *bytes; /* owned */
    size_t size, capacity;
};

/* Which table a string or byte string belongs to: equal ones of different kinds are different entries. */
enum leaf_kind { LEAF_INTERNED, LEAF_TEXT, LEAF_BYTES, LEAF_KINDS, LEAF_NONE };

/* What a stream starts with (native_format.h). */
enum group { GROUP_INTERNED, GROUP_TEXT, GROUP_BYTES, GROUP_IN_PLACE, GROUPS };

struct encoder {
    PyObject *counts[LEAF_KINDS]; /* dict: leaf -> number of modules that have it; owned */
    PyObject *entries[LEAF_KINDS]; /* dict: leaf -> index in the shared table; owned */
    /* of the module at work */
    struct seen_map seen;
    bool in_place; /* may byte strings be used where they are mapped? */
    bool single_bytes; /* as in struct native_layout */
    bool collecting; /* the leaves of the groups that a stream starts with */
    PyObject *groups[GROUPS]; /* list of leaves; owned */
    PyObject *unseen; /* dict: unseen_part() -> the one of equal ones that stands for them; owned */
    PyObject *orders; /* borrowed sequence of the items of its frozensets */
    Py_ssize_t next_order;
    struct output output;
    uint32_t memo_count;
    int depth;
    const char *refusal; /* why the module can't be encoded; set with RET_ERROR and no exception */
};

static int
refuse(struct encoder *encoder, const char *reason)
{
    encoder->refusal = reason;
    return RET_ERROR;
}

static int
put(struct encoder *encoder, const void *bytes, size_t size)
{
    struct output *output = &encoder->output;
    if (output->capacity - output->size < size) {
        size_t capacity = 2 * output->capacity + size + 1024;
        unsigned char *grown = realloc(output->bytes, capacity);
        if (grown == NULL) {
            PyErr_NoMemory();
            return RET_ERROR;
        }
        output->bytes = grown;
        output->capacity = capacity;
    }
    if (size != 0) {
        memcpy(output->bytes + output->size, bytes, size);
        output->size += size;
    }
    return RET_OK;
}

static int
put_byte(struct encoder *encoder, unsigned int byte)
{
    unsigned char value = (unsigned char)byte;
    return put(encoder, &value, 1);
}

static int
put_varint(struct encoder *encoder, uint32_t value)
{
    unsigned char bytes[5];
    size_t size = 0;
    for (; value >= 0x80; value >>= 7) {
        bytes[size++] = (unsigned char)(value | 0x80);
    }
    bytes[size++] = (unsigned char)value;
    return put(encoder, bytes, size);
}

/* A tag, a size and bytes. */
static int
put_block(struct encoder *encoder, unsigned int tag, const void *bytes, size_t size)
{
    if (size > INT_MAX) {
        return refuse(encoder, "a constant is too large");
    }
    if (put_byte(encoder, tag) < 0 || put_varint(encoder, (uint32_t)size) < 0) {
        return RET_ERROR;
    }
    return put(encoder, bytes, size);
}

/* ---- leaves ---- */

static enum leaf_kind
leaf_kind(PyObject *object)
{
    if (PyUnicode_CheckExact(object)) {
        return PyUnicode_CHECK_INTERNED(object) ? LEAF_INTERNED : LEAF_TEXT;
    }
    return PyBytes_CheckExact(object) ? LEAF_BYTES : LEAF_NONE;
}

/* Worth sharing between modules, and allowed to be? Interned strings are one object anyhow. Others that are equal are
   different objects in different modules, which programs can tell by `is`, and pickles by their memo: of those, only
   co_localspluskinds is shared, which nobody sees: those of one byte, too, as classes with a cell for __class__ have
   them (in the mapping, counting a reference to it would copy a page in each module). Single objects (strings of one
   character, what is empty) need not be. */
static bool
is_shareable(const struct encoder *encoder, PyObject *object, enum leaf_kind kind)
{
    if (kind == LEAF_BYTES) {
        return PyBytes_GET_SIZE(object) != 0 && PyBytes_GET_SIZE(object) <= NATIVE_ENTRY_BYTES_LIMIT
               && PyDict_GetItem(encoder->unseen, object) == object;
    }
    Py_ssize_t length = PyUnicode_GET_LENGTH(object);
    return kind == LEAF_INTERNED && length > 1
           && length * (Py_ssize_t)PyUnicode_KIND(object) <= NATIVE_ENTRY_BYTES_LIMIT;
}

static int
put_text(struct encoder *encoder, PyObject *text, unsigned int flag)
{
    unsigned int interned = PyUnicode_CHECK_INTERNED(text) ? 1 : 0;
    size_t length = (size_t)PyUnicode_GET_LENGTH(text);
    unsigned int kind = (unsigned int)PyUnicode_KIND(text);
    if (length == 1 && kind == 1) {
        unsigned char character = *PyUnicode_1BYTE_DATA(text);
        return put_byte(encoder, (NATIVE_CHARACTER + interned) | flag) < 0 ? RET_ERROR : put_byte(encoder, character);
    }
    if (PyUnicode_IS_ASCII(text)) {
        unsigned int tag = interned == 0            ? NATIVE_ASCII
                           : native_is_static(text) ? NATIVE_ASCII_STATIC
                                                    : NATIVE_ASCII_INTERNED;
        return put_block(encoder, tag | flag, PyUnicode_1BYTE_DATA(text), length);
    }
    if (length > INT_MAX / 4) {
        return refuse(encoder, "a constant is too large");
    }
    if (put_byte(encoder, (NATIVE_WIDE + interned) | flag) < 0 || put_byte(encoder, kind) < 0
        || put_varint(encoder, (uint32_t)length) < 0) {
        return RET_ERROR;
    }
    return put(encoder, PyUnicode_DATA(text), length * kind);
}

static int
put_integer(struct encoder *encoder, PyObject *number, unsigned int flag)
{
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (value == -1 && PyErr_Occurred()) {
        return RET_ERROR;
    }
    if (overflow) {
        PyObject *text = PyNumber_ToBase(number, 16); /* "-0x1f": PyLong_FromString takes the prefix */
        Py_ssize_t size;
        const char *digits = text == NULL ? NULL : PyUnicode_AsUTF8AndSize(text, &size);
        int result = digits == NULL ? RET_ERROR : put_block(encoder, NATIVE_INT_HEX | flag, digits, (size_t)size + 1);
        Py_XDECREF(text);
        return result;
    }
    if (value == (int8_t)value) {
        int8_t narrow = (int8_t)value;
        return put_byte(encoder, NATIVE_INT8 | flag) < 0 ? RET_ERROR : put(encoder, &narrow, sizeof(narrow));
    }
    if (value == (int32_t)value) {
        int32_t narrow = (int32_t)value;
        return put_byte(encoder, NATIVE_INT32 | flag) < 0 ? RET_ERROR : put(encoder, &narrow, sizeof(narrow));
    }
    return put_byte(encoder, NATIVE_INT64 | flag) < 0 ? RET_ERROR : put(encoder, &value, sizeof(value));
}

/* ---- references ---- */

static int
put_far(struct encoder *encoder, unsigned int tag, uint32_t index)
{
    return put_byte(encoder, tag) < 0 ? RET_ERROR : put(encoder, &index, sizeof(index));
}

static int
put_memo_reference(struct encoder *encoder, uint32_t index)
{
    if (index >= NATIVE_MEMO_NEAR) {
        return put_far(encoder, NATIVE_MEMO_FAR, index);
    }
    return put_byte(encoder, 0x80 | index >> 8) < 0 ? RET_ERROR : put_byte(encoder, index & 0xff);
}

static int
put_shared_reference(struct encoder *encoder, uint32_t index)
{
    if (index < NATIVE_SHARED_NEAR) {
        return put_byte(encoder, 0x40 | index);
    }
    if (index >= NATIVE_SHARED_MIDDLE) {
        return put_far(encoder, NATIVE_SHARED_FAR, index);
    }
    index -= NATIVE_SHARED_NEAR;
    return put_byte(encoder, 0xc0 | index >> 8) < 0 ? RET_ERROR : put_byte(encoder, index & 0xff);
}

/* The leaf's index in the shared table; -1: it has none there; -2 with an exception. */
static int64_t
shared_index(struct encoder *encoder, PyObject *leaf, enum leaf_kind kind)
{
    PyObject *index = is_shareable(encoder, leaf, kind) ? PyDict_GetItemWithError(encoder->entries[kind], leaf) : NULL;
    if (index == NULL) {
        return PyErr_Occurred() ? -2 : -1;
    }
    return PyLong_AsLongLong(index);
}

/* The group that a leaf belongs to if it isn't shared; GROUPS: none. */
static enum group
leaf_group(const struct encoder *encoder, PyObject *leaf, enum leaf_kind kind)
{
    if (kind == LEAF_BYTES) {
        Py_ssize_t size = PyBytes_GET_SIZE(leaf);
        bool in_place = encoder->in_place && !(size == 1 && encoder->single_bytes);
        return size == 0 ? GROUPS : in_place ? GROUP_IN_PLACE : GROUP_BYTES;
    }
    if (kind == LEAF_NONE || !PyUnicode_IS_ASCII(leaf) || PyUnicode_GET_LENGTH(leaf) < 2) {
        return GROUPS;
    }
    return kind == LEAF_TEXT ? GROUP_TEXT : native_is_static(leaf) ? GROUPS : GROUP_INTERNED;
}

/* Is it a part of a code object that no program sees? Then equal ones may be one object: in an average module half of
   all co_localsplusnames. (co_varnames and its like are made of them when they are asked for: Objects/codeobject.c,
   3.11 to 3.15, get_localsplus_names.) */
static bool
is_unseen(int part)
{
    return part == NATIVE_LOCALSPLUSKINDS || part == NATIVE_LOCALSPLUSNAMES;
}

/* What is written for a part of a code object. `once`: the code runs once, and its tuples go with it. Borrowed; NULL
   with an exception. */
static PyObject *
written_part(struct encoder *encoder, const struct native_code_parts *parts, int part, bool once)
{
    PyObject *object = parts->objects[part];
    if (!is_unseen(part) || (once && PyTuple_CheckExact(object))) {
        return object;
    }
    PyObject *same = PyDict_SetDefault(encoder->unseen, object, object);
    for (Py_ssize_t i = 0; same != NULL && PyTuple_CheckExact(object) && i < PyTuple_GET_SIZE(object); i++) {
        if (PyTuple_GET_ITEM(same, i) != PyTuple_GET_ITEM(object, i)) {
            return object;
        }
    }
    return same;
}

/* ---- the walk ---- */

static int encode_object(struct encoder *encoder, PyObject *object);

/* Would the collector keep tracking it (Objects/tupleobject.c, _PyTuple_MaybeUntrack)? Code objects, strings, numbers
   are not tracked; sets and slices are. */
static bool
stays_tracked(PyObject *object)
{
    if (PyFrozenSet_CheckExact(object) || PySlice_Check(object)) {
        return true;
    }
    if (PyTuple_CheckExact(object)) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); i++) {
            if (stays_tracked(PyTuple_GET_ITEM(object, i))) {
                return true;
            }
        }
    }
    return false;
}

static int
encode_items(struct encoder *encoder, PyObject *tuple)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
        if (encode_object(encoder, PyTuple_GET_ITEM(tuple, i)) < 0) {
            return RET_ERROR;
        }
    }
    return RET_OK;
}

static int
put_tuple(struct encoder *encoder, PyObject *tuple, unsigned int flag, bool once)
{
    unsigned int tag = stays_tracked(tuple) ? NATIVE_TUPLE_TRACKED : once ? NATIVE_TUPLE_ONCE : NATIVE_TUPLE;
    if (PyTuple_GET_SIZE(tuple) > INT_MAX) {
        return refuse(encoder, "a constant is too large");
    }
    if (put_byte(encoder, tag | flag) < 0 || put_varint(encoder, (uint32_t)PyTuple_GET_SIZE(tuple)) < 0) {
        return RET_ERROR;
    }
    return encode_items(encoder, tuple);
}

/* The items of a frozenset in marshal's order, as a tuple of the set's own items; NULL with an exception, or with a
   refusal. */
static PyObject *
ordered_items(struct encoder *encoder, PyObject *set)
{
    PyObject *items = PySequence_Tuple(set);
    if (items == NULL || PyTuple_GET_SIZE(items) < 2) {
        return items;
    }
    PyObject *order = NULL, *own = PyDict_New(), *result = NULL;
    if (own == NULL) {
        goto done;
    }
    order = PySequence_GetItem(encoder->orders, encoder->next_order++);
    if (order == NULL && PyErr_ExceptionMatches(PyExc_IndexError)) {
        PyErr_Clear();
        refuse(encoder, "order of a frozenset is not known");
    }
    if (order == NULL) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(items); i++) {
        if (PyDict_SetItem(own, PyTuple_GET_ITEM(items, i), PyTuple_GET_ITEM(items, i)) < 0) {
            goto done;
        }
    }
    result = PySequence_Tuple(order);
    for (Py_ssize_t i = 0; result != NULL && i < PyTuple_GET_SIZE(result); i++) {
        PyObject *item = PyDict_GetItemWithError(own, PyTuple_GET_ITEM(result, i));
        if (item == NULL || PyTuple_GET_SIZE(result) != PyTuple_GET_SIZE(items)) {
            if (!PyErr_Occurred()) {
                refuse(encoder, "order of a frozenset is not known");
            }
            Py_CLEAR(result);
            break;
        }
        PyObject *stranger = PyTuple_GET_ITEM(result, i);
        PyTuple_SET_ITEM(result, i, Py_NewRef(item));
        Py_DECREF(stranger);
    }
done:
    Py_DECREF(items);
    Py_XDECREF(order);
    Py_XDECREF(own);
    return result;
}

static int
put_frozenset(struct encoder *encoder, PyObject *set, unsigned int flag)
{
    PyObject *items = ordered_items(encoder, set);
    int result = RET_ERROR;
    if (items != NULL && put_byte(encoder, NATIVE_FROZENSET | flag) == RET_OK
        && put_varint(encoder, (uint32_t)PyTuple_GET_SIZE(items)) == RET_OK) {
        result = encode_items(encoder, items);
    }
    Py_XDECREF(items);
    return result;
}

static int
put_code(struct encoder *encoder, PyObject *object, unsigned int flag, bool once)
{
    struct native_code_parts parts;
    native_code_take_apart((PyCodeObject *)object, &parts);
    if (put_byte(encoder, (once ? NATIVE_CODE_ONCE : NATIVE_CODE) | flag) < 0) {
        return RET_ERROR;
    }
    for (int i = 0; i < NATIVE_CODE_NUMBERS; i++) {
        if (put_varint(encoder, (uint32_t)parts.numbers[i]) < 0) {
            return RET_ERROR;
        }
    }
    if (put_varint(encoder, (uint32_t)parts.units) < 0
        || put(encoder, ((PyCodeObject *)object)->co_code_adaptive, (size_t)parts.units * NATIVE_UNIT_BYTES) < 0) {
        return RET_ERROR;
    }
    for (int i = 0; i < NATIVE_CODE_OBJECTS; i++) {
        PyObject *part = written_part(encoder, &parts, i, once);
        if (part == NULL || encode_object(encoder, part) < 0) {
            return RET_ERROR;
        }
    }
    return RET_OK;
}

static int
put_object(struct encoder *encoder, PyObject *object, unsigned int flag, bool once)
{
    if (PyUnicode_CheckExact(object)) {
        return put_text(encoder, object, flag);
    }
    if (PyBytes_CheckExact(object)) {
        return put_block(encoder, (once ? NATIVE_BYTES_ONCE : NATIVE_BYTES) | flag, PyBytes_AS_STRING(object),
                         (size_t)PyBytes_GET_SIZE(object));
    }
    if (PyTuple_CheckExact(object)) {
        return put_tuple(encoder, object, flag, once);
    }
    if (PyCode_Check(object)) {
        return put_code(encoder, object, flag, once);
    }
    if (PyLong_CheckExact(object)) {
        return put_integer(encoder, object, flag);
    }
    if (PyFloat_CheckExact(object)) {
        double value = PyFloat_AS_DOUBLE(object);
        return put_byte(encoder, NATIVE_FLOAT | flag) < 0 ? RET_ERROR : put(encoder, &value, sizeof(value));
    }
    if (PyComplex_CheckExact(object)) {
        Py_complex value = ((PyComplexObject *)object)->cval;
        return put_byte(encoder, NATIVE_COMPLEX | flag) < 0 ? RET_ERROR : put(encoder, &value, sizeof(value));
    }
    if (PyFrozenSet_CheckExact(object)) {
        return put_frozenset(encoder, object, flag);
    }
    if (PySlice_Check(object)) { /* a constant from 3.14 on */
        PySliceObject *slice = (PySliceObject *)object;
        return put_byte(encoder, NATIVE_SLICE | flag) < 0 || encode_object(encoder, slice->start) < 0
                       || encode_object(encoder, slice->stop) < 0 || encode_object(encoder, slice->step) < 0
                   ? RET_ERROR
                   : RET_OK;
    }
    return refuse(encoder, "a constant has a type that marshal doesn't make of source code");
}

static int
encode_object(struct encoder *encoder, PyObject *object)
{
    if (object == Py_None || object == Py_False || object == Py_True || object == Py_Ellipsis) {
        return put_byte(
            encoder, object == Py_None     ? NATIVE_NONE
                     : object == Py_False  ? NATIVE_FALSE
                     : object == Py_True   ? NATIVE_TRUE
                                           : NATIVE_ELLIPSIS);
    }
    enum leaf_kind kind = leaf_kind(object);
    if (kind != LEAF_NONE) {
        int64_t shared = shared_index(encoder, object, kind);
        if (shared != -1) {
            return shared < 0 ? RET_ERROR : put_shared_reference(encoder, (uint32_t)shared);
        }
    }
    struct seen *entry = seen_entry(&encoder->seen, object);
    if (entry == NULL) {
        return RET_ERROR;
    }
    if (entry->memo != 0) {
        return put_memo_reference(encoder, entry->memo - 1);
    }
    bool again = entry->uses > 1, once = (entry->once && !again) || entry->counted;
    if (++encoder->depth > NATIVE_DEPTH_LIMIT) {
        return refuse(encoder, "constants are nested too deeply");
    }
    if (put_object(encoder, object, again ? NATIVE_MEMO : 0, once) < 0) {
        return RET_ERROR;
    }
    encoder->depth--;
    if (again) {
        entry = seen_entry(&encoder->seen, object);
        if (entry == NULL) {
            return RET_ERROR;
        }
        entry->memo = ++encoder->memo_count;
    }
    return RET_OK;
}

/* ---- counting ---- */

/* Puts a leaf that isn't shared into its group. */
static int
collect_leaf(struct encoder *encoder, PyObject *leaf)
{
    enum leaf_kind kind = leaf_kind(leaf);
    enum group group = leaf_group(encoder, leaf, kind);
    if (group == GROUPS) {
        return RET_OK;
    }
    int64_t shared = shared_index(encoder, leaf, kind);
    if (shared != -1) {
        return shared < 0 ? RET_ERROR : RET_OK;
    }
    return PyList_Append(encoder->groups[group], leaf);
}

/* Says that an object is code that runs once, or a part of such code. */
static int
mark_once(struct encoder *encoder, PyObject *object)
{
    struct seen *entry = seen_entry(&encoder->seen, object);
    if (entry == NULL) {
        return RET_ERROR;
    }
    entry->once = true;
    return RET_OK;
}

/* Programs see how many references there are to a byte string that they have from a constant (CPython's own tests of
   io.BytesIO count them). It isn't worth much to have it otherwise: most byte strings are tables of code objects. */
static int
mark_counted(struct encoder *encoder, PyObject *constant)
{
    if (!PyBytes_CheckExact(constant) || PyBytes_GET_SIZE(constant) < 2) { /* shorter ones are the interpreter's */
        return RET_OK;
    }
    struct seen *entry = seen_entry(&encoder->seen, constant);
    if (entry == NULL) {
        return RET_ERROR;
    }
    entry->counted = true;
    return RET_OK;
}

/* The parts of code that runs once: its tuples, its tables (unless they can be used in place without a trace), and the
   code objects among its constants that run once, too: bodies of classes. Functions have CO_OPTIMIZED
   (Python/compile.c, compute_code_flags). */
static int
mark_parts(struct encoder *encoder, const struct native_code_parts *parts)
{
    static const enum native_code_object own[] = {
        NATIVE_CONSTS, NATIVE_NAMES, NATIVE_LOCALSPLUSNAMES, NATIVE_LINETABLE, NATIVE_EXCEPTIONTABLE};
    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
        PyObject *part = parts->objects[own[i]];
        bool stays = encoder->in_place && !NATIVE_COUNTS_IMMORTAL && PyBytes_CheckExact(part);
        if (!stays && mark_once(encoder, part) < 0) {
            return RET_ERROR;
        }
    }
    PyObject *consts = parts->objects[NATIVE_CONSTS];
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(consts); i++) {
        PyObject *constant = PyTuple_GET_ITEM(consts, i);
        if (PyCode_Check(constant) && !(((PyCodeObject *)constant)->co_flags & CO_OPTIMIZED)
            && mark_once(encoder, constant) < 0) {
            return RET_ERROR;
        }
    }
    return RET_OK;
}

/* Counts the uses of each object in a module, and collects its leaves. Deep nesting ends here: RET_ERROR with a
   refusal. */
static int
count_object(struct encoder *encoder, PyObject *object)
{
    struct seen *entry = seen_entry(&encoder->seen, object);
    if (entry == NULL) {
        return RET_ERROR;
    }
    if (++entry->uses > 1) {
        return RET_OK;
    }
    bool once = entry->once;
    if (encoder->collecting && !once && !entry->counted && collect_leaf(encoder, object) < 0) {
        return RET_ERROR;
    }
    if (++encoder->depth > NATIVE_DEPTH_LIMIT) {
        return refuse(encoder, "constants are nested too deeply");
    }
    if (PyTuple_CheckExact(object)) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); i++) {
            PyObject *item = PyTuple_GET_ITEM(object, i);
            if (mark_counted(encoder, item) < 0 || count_object(encoder, item) < 0) {
                return RET_ERROR;
            }
        }
    }
    else if (PyFrozenSet_CheckExact(object)) {
        PyObject *iterator = PyObject_GetIter(object), *item;
        while (iterator != NULL && (item = PyIter_Next(iterator)) != NULL) {
            int result = mark_counted(encoder, item) < 0 ? RET_ERROR : count_object(encoder, item);
            Py_DECREF(item);
            if (result < 0) {
                Py_DECREF(iterator);
                return RET_ERROR;
            }
        }
        Py_XDECREF(iterator);
        if (PyErr_Occurred()) {
            return RET_ERROR;
        }
    }
    else if (PySlice_Check(object)) {
        PySliceObject *slice = (PySliceObject *)object;
        if (count_object(encoder, slice->start) < 0 || count_object(encoder, slice->stop) < 0
            || count_object(encoder, slice->step) < 0) {
            return RET_ERROR;
        }
    }
    else if (PyCode_Check(object)) {
        struct native_code_parts parts;
        native_code_take_apart((PyCodeObject *)object, &parts);
        if (once && mark_parts(encoder, &parts) < 0) {
            return RET_ERROR;
        }
        for (int i = 0; i < NATIVE_CODE_OBJECTS; i++) {
            PyObject *part = written_part(encoder, &parts, i, once);
            if (part == NULL || count_object(encoder, part) < 0) {
                return RET_ERROR;
            }
        }
    }
    encoder->depth--;
    return RET_OK;
}

static void
start_module(struct encoder *encoder)
{
    seen_clear(&encoder->seen);
    encoder->next_order = 0;
    encoder->output.size = 0;
    encoder->memo_count = 0;
    encoder->depth = 0;
    encoder->refusal = NULL;
    encoder->collecting = false;
    PyDict_Clear(encoder->unseen);
}

/* Adds one to the count of modules of each shareable leaf of the module. */
static int
count_module(struct encoder *encoder, PyObject *code)
{
    start_module(encoder);
    if (count_object(encoder, code) < 0) {
        return PyErr_Occurred() ? RET_ERROR : RET_OK; /* refused: said again when it is to be written */
    }
    for (size_t i = 0; i < encoder->seen.capacity; i++) {
        PyObject *leaf = encoder->seen.slots[i].object;
        enum leaf_kind kind = leaf == NULL ? LEAF_NONE : leaf_kind(leaf);
        if (kind == LEAF_NONE || !is_shareable(encoder, leaf, kind)) {
            continue;
        }
        PyObject *known = PyDict_GetItemWithError(encoder->counts[kind], leaf);
        if (known == NULL && PyErr_Occurred()) {
            return RET_ERROR;
        }
        PyObject *count = PyLong_FromLong((known == NULL ? 0 : PyLong_AsLong(known)) + 1);
        int result = count == NULL ? RET_ERROR : PyDict_SetItem(encoder->counts[kind], leaf, count);
        Py_XDECREF(count);
        if (result < 0) {
            return RET_ERROR;
        }
    }
    return RET_OK;
}

/* ---- the shared table ---- */

/* Adds a leaf to the table; `leaves` is the list of entries so far. */
static int
add_entry(struct encoder *encoder, PyObject *leaves, PyObject *leaf, enum leaf_kind kind)
{
    PyObject *index = PyLong_FromSsize_t(PyList_GET_SIZE(leaves));
    int result = index == NULL ? RET_ERROR : PyDict_SetItem(encoder->entries[kind], leaf, index);
    Py_XDECREF(index);
    return result < 0 ? RET_ERROR : PyList_Append(leaves, leaf);
}

/* The table's entries: those of the base, then what two modules or more have in common, most common first. */
static PyObject *
choose_entries(struct encoder *encoder, struct native_context *base)
{
    PyObject *leaves = PyList_New(0), *ranked = PyList_New(0);
    if (leaves == NULL || ranked == NULL) {
        goto error;
    }
    for (uint32_t i = 0; base != NULL && i < base->entry_count; i++) {
        PyObject *leaf = native_shared_entry(base, i);
        if (leaf == NULL) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_ValueError, "archive damaged: shared table");
            }
            goto error;
        }
        if (add_entry(encoder, leaves, leaf, leaf_kind(leaf)) < 0) {
            goto error;
        }
    }
    for (int kind = 0; kind < LEAF_KINDS; kind++) {
        PyObject *leaf, *count;
        for (Py_ssize_t at = 0; PyDict_Next(encoder->counts[kind], &at, &leaf, &count);) {
            int known = PyDict_Contains(encoder->entries[kind], leaf);
            if (known < 0) {
                goto error;
            }
            if (!known && PyLong_AsLong(count) > 1) {
                PyObject *row = Py_BuildValue("(lniO)", -PyLong_AsLong(count), PyList_GET_SIZE(ranked), kind, leaf);
                int result = row == NULL ? RET_ERROR : PyList_Append(ranked, row);
                Py_XDECREF(row);
                if (result < 0) {
                    goto error;
                }
            }
        }
    }
    if (PyList_Sort(ranked) < 0) {
        goto error;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(ranked); i++) {
        PyObject *row = PyList_GET_ITEM(ranked, i);
        enum leaf_kind kind = (enum leaf_kind)PyLong_AsLong(PyTuple_GET_ITEM(row, 2));
        if (add_entry(encoder, leaves, PyTuple_GET_ITEM(row, 3), kind) < 0) {
            goto error;
        }
    }
    Py_DECREF(ranked);
    return leaves;
error:
    Py_XDECREF(leaves);
    Py_XDECREF(ranked);
    return NULL;
}

/* The bytes of the table with these entries. */
static PyObject *
write_table(struct encoder *encoder, PyObject *leaves)
{
    uint32_t entries = (uint32_t)PyList_GET_SIZE(leaves);
    uint32_t blocks = (entries + NATIVE_BLOCK_ENTRIES - 1) / NATIVE_BLOCK_ENTRIES;
    struct native_shared_head head = {.entry_count = entries, .block_count = blocks};
    size_t records_bytes = blocks * sizeof(struct native_block_record);
    struct native_block_record *records = calloc(blocks + 1, sizeof(*records));
    PyObject *result = NULL;
    head.checksum = pycds_checksum(&head, offsetof(struct native_shared_head, checksum));
    start_module(encoder);
    if (records == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    if (put(encoder, &head, sizeof(head)) < 0 || put(encoder, records, records_bytes) < 0) {
        goto done;
    }
    for (uint32_t block = 0; block < blocks; block++) {
        uint32_t first = block * NATIVE_BLOCK_ENTRIES;
        uint32_t count = Py_MIN((uint32_t)NATIVE_BLOCK_ENTRIES, entries - first);
        uint16_t offsets[NATIVE_BLOCK_ENTRIES + 1];
        size_t start = encoder->output.size;
        if (put(encoder, offsets, (count + 1) * sizeof(*offsets)) < 0) {
            goto done;
        }
        for (uint32_t i = 0; i < count; i++) {
            offsets[i] = (uint16_t)(encoder->output.size - start);
            PyObject *leaf = PyList_GET_ITEM(leaves, first + i);
            if (put_object(encoder, leaf, 0, false) < 0) {
                goto done;
            }
        }
        offsets[count] = (uint16_t)(encoder->output.size - start);
        memcpy(encoder->output.bytes + start, offsets, (count + 1) * sizeof(*offsets));
        if (encoder->output.size % 2 && put_byte(encoder, 0) < 0) {
            goto done;
        }
        if (encoder->output.size > UINT32_MAX) {
            PyErr_SetString(PyExc_OverflowError, "shared table is too large");
            goto done;
        }
        struct native_block_record *record = &records[block];
        record->offset = (uint32_t)start;
        record->bytes = (uint32_t)(encoder->output.size - start);
        const uint32_t place[] = {record->offset, record->bytes, block};
        record->checksum = pycds_checksum(encoder->output.bytes + start, record->bytes)
                           ^ pycds_checksum(place, sizeof(place));
    }
    if (records_bytes != 0) {
        memcpy(encoder->output.bytes + sizeof(head), records, records_bytes);
    }
    result = PyBytes_FromStringAndSize((const char *)encoder->output.bytes, (Py_ssize_t)encoder->output.size);
done:
    free(records);
    return result;
}

/* ---- streams ---- */

static int
put_in_place(struct encoder *encoder, PyObject *bytes)
{
    static const char zeros[8] = {0};
    PyBytesObject head;
    native_bytes_head(&head);
    ((PyVarObject *)&head)->ob_size = PyBytes_GET_SIZE(bytes);
    if (put(encoder, zeros, -encoder->output.size & 7) < 0
        || put(encoder, &head, offsetof(PyBytesObject, ob_sval)) < 0) {
        return RET_ERROR;
    }
    return put(encoder, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes) + 1);
}

/* Writes the head of a stream and its groups. */
static int
put_groups(struct encoder *encoder, uint32_t memo_count)
{
    if (put_varint(encoder, memo_count) < 0) {
        return RET_ERROR;
    }
    for (int group = 0; group < GROUPS; group++) {
        if (put_varint(encoder, (uint32_t)PyList_GET_SIZE(encoder->groups[group])) < 0) {
            return RET_ERROR;
        }
    }
    for (int group = 0; group < GROUPS; group++) {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(encoder->groups[group]); i++) {
            PyObject *leaf = PyList_GET_ITEM(encoder->groups[group], i);
            bool bytes = PyBytes_CheckExact(leaf);
            size_t size = (size_t)(bytes ? PyBytes_GET_SIZE(leaf) : PyUnicode_GET_LENGTH(leaf));
            const void *data = bytes ? (const void *)PyBytes_AS_STRING(leaf) : PyUnicode_DATA(leaf);
            if (size > INT_MAX) {
                return refuse(encoder, "a constant is too large");
            }
            if (group == GROUP_IN_PLACE ? put_in_place(encoder, leaf) < 0
                                        : put_varint(encoder, (uint32_t)size) < 0 || put(encoder, data, size) < 0) {
                return RET_ERROR;
            }
        }
    }
    return RET_OK;
}

/* Gives the leaves of the groups their places in the memo. */
static int
number_leaves(struct encoder *encoder)
{
    for (int group = 0; group < GROUPS; group++) {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(encoder->groups[group]); i++) {
            struct seen *entry = seen_entry(&encoder->seen, PyList_GET_ITEM(encoder->groups[group], i));
            if (entry == NULL) {
                return RET_ERROR;
            }
            entry->memo = ++encoder->memo_count;
        }
    }
    return RET_OK;
}

/* The stream of a module: bytes, or str with a refusal. */
static PyObject *
encode_module(struct encoder *encoder, PyObject *code, PyObject *orders)
{
    start_module(encoder);
    encoder->orders = orders;
    encoder->collecting = true;
    for (int group = 0; group < GROUPS; group++) {
        if (PyList_SetSlice(encoder->groups[group], 0, PyList_GET_SIZE(encoder->groups[group]), NULL) < 0) {
            return NULL;
        }
    }
    int result = mark_once(encoder, code);
    if (result == RET_OK) {
        result = count_object(encoder, code);
    }
    encoder->depth = 0;
    if (result == RET_OK) {
        result = number_leaves(encoder);
    }
    if (result == RET_OK) {
        result = encode_object(encoder, code);
    }
    struct output body = encoder->output;
    encoder->output = (struct output){NULL, 0, 0};
    if (result == RET_OK) {
        result = put_groups(encoder, encoder->memo_count);
    }
    if (result == RET_OK) {
        result = put(encoder, body.bytes, body.size);
    }
    free(body.bytes);
    if (result < 0) {
        return PyErr_Occurred() ? NULL : PyUnicode_FromString(encoder->refusal);
    }
    return PyBytes_FromStringAndSize((const char *)encoder->output.bytes, (Py_ssize_t)encoder->output.size);
}

PyObject *
native_encode(struct native_context *base, PyObject *codes, PyObject *orders)
{
    struct encoder encoder = {.depth = 0};
    PyObject *leaves = NULL, *table = NULL, *streams = PyList_New(0), *result = NULL;
    struct native_layout layout;
    const char *reason = native_layout_check(&layout);
    if (reason != NULL) {
        Py_XDECREF(streams);
        PyErr_SetString(PyExc_RuntimeError, reason);
        return NULL;
    }
    encoder.in_place = layout.fixed_types;
    encoder.single_bytes = layout.single_bytes;
    encoder.unseen = PyDict_New();
    bool ready = streams != NULL && encoder.unseen != NULL;
    for (int group = 0; group < GROUPS; group++) {
        encoder.groups[group] = PyList_New(0);
        ready = ready && encoder.groups[group] != NULL;
    }
    for (int kind = 0; kind < LEAF_KINDS; kind++) {
        encoder.counts[kind] = PyDict_New();
        encoder.entries[kind] = PyDict_New();
        ready = ready && encoder.counts[kind] != NULL && encoder.entries[kind] != NULL;
    }
    if (!ready) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(codes); i++) {
        if (count_module(&encoder, PyList_GET_ITEM(codes, i)) < 0) {
            goto done;
        }
    }
    leaves = choose_entries(&encoder, base);
    table = leaves == NULL ? NULL : write_table(&encoder, leaves);
    if (table == NULL) {
        goto done;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(codes); i++) {
        PyObject *stream = encode_module(&encoder, PyList_GET_ITEM(codes, i), PyList_GET_ITEM(orders, i));
        int appended = stream == NULL ? RET_ERROR : PyList_Append(streams, stream);
        Py_XDECREF(stream);
        if (appended < 0) {
            goto done;
        }
    }
    result = PyTuple_Pack(2, table, streams);
done:
    seen_clear(&encoder.seen);
    free(encoder.output.bytes);
    Py_XDECREF(encoder.unseen);
    for (int group = 0; group < GROUPS; group++) {
        Py_XDECREF(encoder.groups[group]);
    }
    for (int kind = 0; kind < LEAF_KINDS; kind++) {
        Py_XDECREF(encoder.counts[kind]);
        Py_XDECREF(encoder.entries[kind]);
    }
    Py_XDECREF(leaves);
    Py_XDECREF(table);
    Py_XDECREF(streams);
    return result;
}

/* ---- comparing ---- */

struct comparison {
    PyObject *pairs; /* dict: id of an unmarshalled object -> id of the decoded one; owned */
    PyObject *reverse; /* the other way round; owned */
    int depth;
};

static const char *compare_objects(struct comparison *comparison, PyObject *one, PyObject *other, bool identity);

/* Same object on one side, same object on the other? *known: this pair was met before. */
static const char *
compare_identity(PyObject *pairs, PyObject *one, PyObject *other, bool *known)
{
    PyObject *key = PyLong_FromVoidPtr(one), *value = PyLong_FromVoidPtr(other);
    Py_ssize_t before = PyDict_GET_SIZE(pairs);
    PyObject *partner = key == NULL || value == NULL ? NULL : PyDict_SetDefault(pairs, key, value);
    const char *reason = NULL;
    *known = PyDict_GET_SIZE(pairs) == before;
    if (partner == NULL) {
        reason = "out of memory";
    }
    else if (PyLong_AsVoidPtr(partner) != (void *)other) {
        reason = "which constants are the same object";
    }
    Py_XDECREF(key);
    Py_XDECREF(value);
    return reason;
}

static const char *
compare_texts(PyObject *one, PyObject *other)
{
    if (PyUnicode_KIND(one) != PyUnicode_KIND(other) || PyUnicode_IS_ASCII(one) != PyUnicode_IS_ASCII(other)
        || PyUnicode_IS_COMPACT(one) != PyUnicode_IS_COMPACT(other)
        || PyUnicode_GET_LENGTH(one) != PyUnicode_GET_LENGTH(other)
        || memcmp(PyUnicode_DATA(one), PyUnicode_DATA(other),
                  (size_t)PyUnicode_GET_LENGTH(one) * (size_t)PyUnicode_KIND(one))) {
        return "a string";
    }
    if (!PyUnicode_CHECK_INTERNED(one) != !PyUnicode_CHECK_INTERNED(other)
        || (PyUnicode_CHECK_INTERNED(one) && one != other)) {
        return "whether a string is interned";
    }
    bool single = PyUnicode_GET_LENGTH(one) == 0 || (PyUnicode_GET_LENGTH(one) == 1 && PyUnicode_KIND(one) == 1);
    return single && one != other ? "a string of which there is only one" : NULL;
}

static const char *
compare_frozensets(struct comparison *comparison, PyObject *one, PyObject *other)
{
    PyObject *items = PySequence_List(one), *other_items = PySequence_List(other);
    const char *reason = NULL;
    if (items == NULL || other_items == NULL) {
        PyErr_Clear();
        reason = "out of memory";
    }
    else if (PyList_GET_SIZE(items) != PyList_GET_SIZE(other_items)) {
        reason = "size of a frozenset";
    }
    for (Py_ssize_t i = 0; reason == NULL && i < PyList_GET_SIZE(items); i++) {
        reason =
            compare_objects(comparison, PyList_GET_ITEM(items, i), PyList_GET_ITEM(other_items, i), true);
    }
    Py_XDECREF(items);
    Py_XDECREF(other_items);
    return reason;
}

static const char *
compare_codes(struct comparison *comparison, PyCodeObject *one, PyCodeObject *other)
{
    struct native_code_parts parts, other_parts;
    const char *reason = native_code_difference(one, other);
    if (reason != NULL) {
        return reason;
    }
    native_code_take_apart(one, &parts);
    native_code_take_apart(other, &other_parts);
    for (int i = 0; reason == NULL && i < NATIVE_CODE_OBJECTS; i++) {
        reason = compare_objects(comparison, parts.objects[i], other_parts.objects[i], !is_unseen(i));
    }
    return reason;
}

static const char *
compare_values(struct comparison *comparison, PyObject *one, PyObject *other)
{
    if (Py_TYPE(one) != Py_TYPE(other)) {
        return "type of an object";
    }
    if (PyUnicode_CheckExact(one)) {
        return compare_texts(one, other);
    }
    if (PyBytes_CheckExact(one)) {
        return PyBytes_GET_SIZE(one) == PyBytes_GET_SIZE(other)
                       && memcmp(PyBytes_AS_STRING(one), PyBytes_AS_STRING(other), (size_t)PyBytes_GET_SIZE(one)) == 0
                       && (PyBytes_GET_SIZE(one) != 0 || one == other)
                   ? NULL
                   : "a byte string";
    }
    if (PyTuple_CheckExact(one)) {
        if (PyTuple_GET_SIZE(one) != PyTuple_GET_SIZE(other) || (PyTuple_GET_SIZE(one) == 0 && one != other)) {
            return "size of a tuple";
        }
        const char *reason = NULL;
        for (Py_ssize_t i = 0; reason == NULL && i < PyTuple_GET_SIZE(one); i++) {
            reason = compare_objects(comparison, PyTuple_GET_ITEM(one, i), PyTuple_GET_ITEM(other, i), true);
        }
        return reason;
    }
    if (PyCode_Check(one)) {
        return compare_codes(comparison, (PyCodeObject *)one, (PyCodeObject *)other);
    }
    if (PyFrozenSet_CheckExact(one)) {
        return compare_frozensets(comparison, one, other);
    }
    if (PySlice_Check(one)) {
        PySliceObject *slice = (PySliceObject *)one, *other_slice = (PySliceObject *)other;
        const char *reason = compare_objects(comparison, slice->start, other_slice->start, true);
        if (reason == NULL) {
            reason = compare_objects(comparison, slice->stop, other_slice->stop, true);
        }
        return reason == NULL ? compare_objects(comparison, slice->step, other_slice->step, true) : reason;
    }
    if (PyFloat_CheckExact(one)) { /* bits: signs of zero and payloads of NaN count */
        return memcmp(&((PyFloatObject *)one)->ob_fval, &((PyFloatObject *)other)->ob_fval, sizeof(double))
                   ? "a float"
                   : NULL;
    }
    if (PyComplex_CheckExact(one)) {
        return memcmp(&((PyComplexObject *)one)->cval, &((PyComplexObject *)other)->cval, sizeof(Py_complex))
                   ? "a complex number"
                   : NULL;
    }
    if (PyLong_CheckExact(one)) {
        int equal = PyObject_RichCompareBool(one, other, Py_EQ);
        return equal == 1 ? NULL : "an int";
    }
    return one == other ? NULL : "a constant of an unexpected type";
}

static const char *
compare_objects(struct comparison *comparison, PyObject *one, PyObject *other, bool identity)
{
    if (one == other) {
        return PyTuple_CheckExact(one) && PyTuple_GET_SIZE(one) != 0 ? "objects that should be two" : NULL;
    }
    if (identity) {
        bool known, known_reverse;
        const char *reason = compare_identity(comparison->pairs, one, other, &known);
        if (reason == NULL) {
            reason = compare_identity(comparison->reverse, other, one, &known_reverse);
        }
        if (reason != NULL || known) {
            return reason;
        }
    }
    if (++comparison->depth > NATIVE_DEPTH_LIMIT + 1) {
        return "nesting";
    }
    const char *reason = compare_values(comparison, one, other);
    comparison->depth--;
    return reason;
}

static const char *
compare(PyObject *decoded, PyObject *unmarshalled)
{
    struct comparison comparison = {.pairs = PyDict_New(), .reverse = PyDict_New()};
    const char *reason = "out of memory";
    if (comparison.pairs != NULL && comparison.reverse != NULL) {
        reason = compare_objects(&comparison, decoded, unmarshalled, true);
    }
    Py_XDECREF(comparison.pairs);
    Py_XDECREF(comparison.reverse);
    PyErr_Clear();
    return reason;
}

PyObject *
native_verify(struct native_context *context, PyObject *stream, PyObject *marshalled)
{
    if (!PyBytes_CheckExact(stream) || !PyBytes_CheckExact(marshalled)) {
        PyErr_SetString(PyExc_TypeError, "stream and marshalled code must be bytes");
        return NULL;
    }
    size_t size = (size_t)PyBytes_GET_SIZE(stream);
    void *copy = native_arena_take(&context->arena, size);
    if (copy == NULL) {
        return PyErr_NoMemory();
    }
    memcpy(copy, PyBytes_AS_STRING(stream), size);
    PyObject *decoded = native_decode(context, copy, size);
    if (decoded == NULL) {
        return PyErr_Occurred() ? NULL : PyUnicode_FromString("the decoder refuses it");
    }
    PyObject *unmarshalled =
        PyMarshal_ReadObjectFromString(PyBytes_AS_STRING(marshalled), PyBytes_GET_SIZE(marshalled));
    if (unmarshalled == NULL) {
        Py_DECREF(decoded);
        return NULL;
    }
    const char *reason = compare(decoded, unmarshalled);
    Py_DECREF(unmarshalled);
    Py_DECREF(decoded);
    return reason == NULL ? Py_NewRef(Py_None) : PyUnicode_FromString(reason);
}

#endif
