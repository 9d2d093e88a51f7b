#include "class_slots.h"

#include <stdlib.h>
#include <string.h>

#if CLASSES_SUPPORTED

#define SLOT(name, member) {name, offsetof(PyHeapTypeObject, member)}

/* The special methods and the slots that stand for them, in the order of slotdefs (Objects/typeobject.c): by offset. */
static const struct {
    const char *name;
    size_t offset;
} special_slots[] = {
    SLOT("__getattribute__", ht_type.tp_getattr), SLOT("__getattr__", ht_type.tp_getattr),
    SLOT("__setattr__", ht_type.tp_setattr), SLOT("__delattr__", ht_type.tp_setattr), SLOT("__repr__", ht_type.tp_repr),
    SLOT("__hash__", ht_type.tp_hash), SLOT("__call__", ht_type.tp_call), SLOT("__str__", ht_type.tp_str),
    SLOT("__getattribute__", ht_type.tp_getattro), SLOT("__getattr__", ht_type.tp_getattro),
    SLOT("__setattr__", ht_type.tp_setattro), SLOT("__delattr__", ht_type.tp_setattro),
    SLOT("__lt__", ht_type.tp_richcompare), SLOT("__le__", ht_type.tp_richcompare),
    SLOT("__eq__", ht_type.tp_richcompare), SLOT("__ne__", ht_type.tp_richcompare),
    SLOT("__gt__", ht_type.tp_richcompare), SLOT("__ge__", ht_type.tp_richcompare), SLOT("__iter__", ht_type.tp_iter),
    SLOT("__next__", ht_type.tp_iternext), SLOT("__get__", ht_type.tp_descr_get), SLOT("__set__", ht_type.tp_descr_set),
    SLOT("__delete__", ht_type.tp_descr_set), SLOT("__init__", ht_type.tp_init), SLOT("__new__", ht_type.tp_new),
    SLOT("__del__", ht_type.tp_finalize), SLOT("__await__", as_async.am_await), SLOT("__aiter__", as_async.am_aiter),
    SLOT("__anext__", as_async.am_anext), SLOT("__add__", as_number.nb_add), SLOT("__radd__", as_number.nb_add),
    SLOT("__sub__", as_number.nb_subtract), SLOT("__rsub__", as_number.nb_subtract),
    SLOT("__mul__", as_number.nb_multiply), SLOT("__rmul__", as_number.nb_multiply),
    SLOT("__mod__", as_number.nb_remainder), SLOT("__rmod__", as_number.nb_remainder),
    SLOT("__divmod__", as_number.nb_divmod), SLOT("__rdivmod__", as_number.nb_divmod),
    SLOT("__pow__", as_number.nb_power), SLOT("__rpow__", as_number.nb_power), SLOT("__neg__", as_number.nb_negative),
    SLOT("__pos__", as_number.nb_positive), SLOT("__abs__", as_number.nb_absolute), SLOT("__bool__", as_number.nb_bool),
    SLOT("__invert__", as_number.nb_invert), SLOT("__lshift__", as_number.nb_lshift),
    SLOT("__rlshift__", as_number.nb_lshift), SLOT("__rshift__", as_number.nb_rshift),
    SLOT("__rrshift__", as_number.nb_rshift), SLOT("__and__", as_number.nb_and), SLOT("__rand__", as_number.nb_and),
    SLOT("__xor__", as_number.nb_xor), SLOT("__rxor__", as_number.nb_xor), SLOT("__or__", as_number.nb_or),
    SLOT("__ror__", as_number.nb_or), SLOT("__int__", as_number.nb_int), SLOT("__float__", as_number.nb_float),
    SLOT("__iadd__", as_number.nb_inplace_add), SLOT("__isub__", as_number.nb_inplace_subtract),
    SLOT("__imul__", as_number.nb_inplace_multiply), SLOT("__imod__", as_number.nb_inplace_remainder),
    SLOT("__ipow__", as_number.nb_inplace_power), SLOT("__ilshift__", as_number.nb_inplace_lshift),
    SLOT("__irshift__", as_number.nb_inplace_rshift), SLOT("__iand__", as_number.nb_inplace_and),
    SLOT("__ixor__", as_number.nb_inplace_xor), SLOT("__ior__", as_number.nb_inplace_or),
    SLOT("__floordiv__", as_number.nb_floor_divide), SLOT("__rfloordiv__", as_number.nb_floor_divide),
    SLOT("__truediv__", as_number.nb_true_divide), SLOT("__rtruediv__", as_number.nb_true_divide),
    SLOT("__ifloordiv__", as_number.nb_inplace_floor_divide), SLOT("__itruediv__", as_number.nb_inplace_true_divide),
    SLOT("__index__", as_number.nb_index), SLOT("__matmul__", as_number.nb_matrix_multiply),
    SLOT("__rmatmul__", as_number.nb_matrix_multiply), SLOT("__imatmul__", as_number.nb_inplace_matrix_multiply),
    SLOT("__len__", as_mapping.mp_length), SLOT("__getitem__", as_mapping.mp_subscript),
    SLOT("__setitem__", as_mapping.mp_ass_subscript), SLOT("__delitem__", as_mapping.mp_ass_subscript),
    SLOT("__len__", as_sequence.sq_length), SLOT("__add__", as_sequence.sq_concat),
    SLOT("__mul__", as_sequence.sq_repeat), SLOT("__rmul__", as_sequence.sq_repeat),
    SLOT("__getitem__", as_sequence.sq_item), SLOT("__setitem__", as_sequence.sq_ass_item),
    SLOT("__delitem__", as_sequence.sq_ass_item), SLOT("__contains__", as_sequence.sq_contains),
    SLOT("__iadd__", as_sequence.sq_inplace_concat), SLOT("__imul__", as_sequence.sq_inplace_repeat),
#if CLASSES_BUFFER_SLOTS
    SLOT("__buffer__", as_buffer.bf_getbuffer), SLOT("__release_buffer__", as_buffer.bf_releasebuffer),
#endif
};

#define SPECIAL_SLOTS (sizeof(special_slots) / sizeof(special_slots[0]))
_Static_assert(SPECIAL_SLOTS < 255, "numbers of slots fit into a byte");

static inline PyHeapTypeObject *
heap(PyTypeObject *type)
{
    return (PyHeapTypeObject *)type;
}

static inline void **
slot_at(PyTypeObject *type, size_t offset)
{
    return (void **)((char *)type + offset);
}

/* ---- names ---- */

#define NAME_BUCKETS 256 /* more than three for each name */

static unsigned char name_table[NAME_BUCKETS]; /* index + 1 of the first slot of a special method, 0 is empty */
static unsigned char next_slot[SPECIAL_SLOTS]; /* index + 1 of the next slot of the same method, 0: no other */
static unsigned char first_of[SPECIAL_SLOTS]; /* index of the first slot of the same method */

static unsigned int
name_bucket(const char *text)
{
    unsigned int hash = 0;
    for (const char *at = text + 2; *at != '_' && *at != '\0'; at++) {
        hash = hash * 31 + (unsigned char)*at;
    }
    return (hash ^ hash >> 8) % NAME_BUCKETS;
}

/* The bucket in which the name is, or would be. */
static unsigned int
find_bucket(const char *text)
{
    unsigned int bucket = name_bucket(text);
    while (name_table[bucket] != 0 && strcmp(special_slots[name_table[bucket] - 1].name, text) != 0) {
        bucket = (bucket + 1) % NAME_BUCKETS;
    }
    return bucket;
}

static void
fill_name_table(void)
{
    memset(name_table, 0, sizeof(name_table));
    memset(next_slot, 0, sizeof(next_slot));
    for (size_t i = 0; i < SPECIAL_SLOTS; i++) {
        unsigned char *link = &name_table[find_bucket(special_slots[i].name)];
        first_of[i] = (unsigned char)(*link == 0 ? i : (size_t)*link - 1);
        while (*link != 0) {
            link = &next_slot[*link - 1];
        }
        *link = (unsigned char)(i + 1);
    }
}

/* Other names with two underscores on both sides, those first that mean something to type.__new__. */
static const struct {
    const char *text;
    int meaning;
} other_names[] = {
    {"__slots__", CLASS_NAME_SLOTS},
    {"__qualname__", CLASS_NAME_QUALNAME},
    {"__classcell__", CLASS_NAME_CELL},
    {"__init_subclass__", CLASS_NAME_INIT_SUBCLASS},
    {"__class_getitem__", CLASS_NAME_CLASS_GETITEM},
#if CLASSES_DICTIONARY_CELL
    {"__classdictcell__", CLASS_NAME_DICTIONARY_CELL},
#endif
    {"__dict__", CLASSES_SHARE_DESCRIPTORS ? CLASS_NAME_DESCRIPTOR : CLASS_NAME_OTHER},
    {"__weakref__", CLASSES_SHARE_DESCRIPTORS ? CLASS_NAME_DESCRIPTOR : CLASS_NAME_OTHER},
    {"__module__", CLASS_NAME_OTHER}, /* the rest is here to be found soon */
    {"__doc__", CLASS_NAME_OTHER},
    {"__annotations__", CLASS_NAME_OTHER},
    {"__match_args__", CLASS_NAME_OTHER},
    {"__firstlineno__", CLASS_NAME_OTHER},
    {"__static_attributes__", CLASS_NAME_OTHER},
    {"__parameters__", CLASS_NAME_OTHER},
    {"__orig_bases__", CLASS_NAME_OTHER},
    {"__annotate_func__", CLASS_NAME_OTHER},
    {"__classdict__", CLASS_NAME_OTHER},
    {"__conditional_annotations__", CLASS_NAME_OTHER},
    {"__abstractmethods__", CLASS_NAME_OTHER},
};

#define OTHER_NAMES (sizeof(other_names) / sizeof(other_names[0]))

/* By its text. */
static int
spelled_name(PyObject *name)
{
    const char *text = PyUnicode_DATA(name);
    if (strlen(text) != (size_t)PyUnicode_GET_LENGTH(name)) {
        return CLASS_NAME_OTHER; /* "__len__\0__" */
    }
    int special = name_table[find_bucket(text)] - 1;
    if (special >= 0) {
        return special;
    }
    for (size_t i = 0; i < OTHER_NAMES; i++) {
        if (strcmp(other_names[i].text, text) == 0) {
            return other_names[i].meaning;
        }
    }
    return CLASS_NAME_OTHER;
}

/* Where the string is in the table of those that are known by their address, or would be. */
static struct class_name *
known_name(struct classes *all, const PyObject *name)
{
    size_t at = ((uintptr_t)name >> 4) % CLASS_NAMES;
    while (all->names[at].name != NULL && all->names[at].name != name) {
        at = (at + 1) % CLASS_NAMES;
    }
    return &all->names[at];
}

static bool
add_known_name(struct classes *all, const char *text, int meaning)
{
    PyObject *name = PyUnicode_InternFromString(text);
    struct class_name *place = name == NULL ? NULL : known_name(all, name);
    if (place != NULL && place->name == NULL) {
        *place = (struct class_name){.name = name, .meaning = meaning};
        return true;
    }
    Py_XDECREF(name);
    return place != NULL;
}

bool
class_slots_prepare(struct classes *all)
{
    fill_name_table();
    bool added = true;
    for (size_t i = 0; added && i < SPECIAL_SLOTS; i++) {
        added = add_known_name(all, special_slots[i].name, first_of[i]);
    }
    for (size_t i = 0; added && i < OTHER_NAMES; i++) {
        added = add_known_name(all, other_names[i].text, other_names[i].meaning);
    }
    return added;
}

static bool
is_dunder(PyObject *name)
{
    if (!PyUnicode_IS_COMPACT_ASCII(name) || PyUnicode_GET_LENGTH(name) < 6) {
        return false;
    }
    const char *text = PyUnicode_DATA(name);
    return text[0] == '_' && text[1] == '_' && text[PyUnicode_GET_LENGTH(name) - 1] == '_';
}

int
class_slots_name(struct classes *all, PyObject *name)
{
    if (!is_dunder(name)) {
        return CLASS_NAME_OTHER;
    }
    const struct class_name *known = known_name(all, name);
    return known->name != NULL ? known->meaning : spelled_name(name);
}

bool
class_slots_is_new(int meaning)
{
    return meaning >= 0 && special_slots[meaning].offset == offsetof(PyHeapTypeObject, ht_type.tp_new);
}

PyObject *
class_slots_every_name(size_t of, size_t rest)
{
    PyObject *namespace = Py_BuildValue("{ss}", "__module__", "x");
    for (size_t i = 0; namespace != NULL && i < SPECIAL_SLOTS; i++) {
        if (i % of == rest && PyDict_SetItemString(namespace, special_slots[i].name, Py_True) < 0) {
            Py_CLEAR(namespace);
        }
    }
    return namespace;
}

/* ---- types ---- */

/* Those that are made by PyType_FromSpec have a copy of their name; others have a tp_dealloc of their own. */
bool
class_slots_by_class_statement(const struct classes *all, const PyTypeObject *type)
{
    return type->tp_flags & Py_TPFLAGS_HEAPTYPE && !(type->tp_flags & Py_TPFLAGS_IMMUTABLETYPE)
           && type->tp_dealloc == all->object_model->ht_type.tp_dealloc
           && ((const PyHeapTypeObject *)type)->_ht_tpname == NULL;
}

/* A type's own attributes; borrowed. From 3.12 on, those of static types belong to the interpreter. */
static PyObject *
attributes_of(PyTypeObject *type)
{
    PyObject *dictionary = type->tp_dict;
    if (dictionary == NULL) {
        dictionary = classes_interpreters_attributes(type);
        Py_XDECREF(dictionary); /* the interpreter keeps it */
    }
    return dictionary;
}

/* ---- models ---- */

/* What subclasses of a type that no class statement made are like; NULL: not known yet. It is good as long as the type
   has the version tag that it had: every change (PyType_Modified) gives it another one, as does its end. */
static const PyHeapTypeObject *
model_of(const struct classes *all, const PyTypeObject *base)
{
    if (base == &PyBaseObject_Type) {
        return all->object_model;
    }
    for (int i = 0; i < all->model_count; i++) {
        const struct class_model *known = &all->models[i];
        if (known->base == base && known->tag == class_slots_tag(base)) {
            return known->model;
        }
    }
    return NULL;
}

/* Takes the slots of a class, which has no special methods of its own, for those of all such classes of its base. */
static void
remember(struct classes *all, const PyTypeObject *type)
{
    PyTypeObject *base = type->tp_base;
    (void)_PyType_Lookup(base, all->strings.slots); /* gives it a version tag, if it can have one */
    if (class_slots_tag(base) == 0) {
        return;
    }
    struct class_model *known = all->models;
    while (known < &all->models[all->model_count] && known->base != base) {
        known++;
    }
    PyHeapTypeObject *model = known == &all->models[CLASSES_MODELS] ? NULL : malloc(sizeof(*model));
    if (model == NULL) {
        return;
    }
    if (known == &all->models[all->model_count]) {
        all->model_count++;
    }
    else {
        free(known->model);
    }
    memcpy(model, type, sizeof(*model));
    *known = (struct class_model){.base = base, .model = model, .tag = class_slots_tag(base)};
}

void
class_slots_clear(struct classes *all)
{
    while (all->model_count > 0) {
        free(all->models[--all->model_count].model);
    }
    for (int i = 0; i < CLASS_NAMES; i++) {
        Py_CLEAR(all->names[i].name); /* strings: they need no traversal */
    }
}

bool
class_slots_set_by_metatype(PyTypeObject *metatype, PyObject *name)
{
    if (metatype == &PyType_Type) {
        return false;
    }
    PyObject *descriptor = _PyType_Lookup(metatype, name);
    return descriptor != NULL && Py_TYPE(descriptor)->tp_descr_set != NULL;
}

/* ---- copying ---- */

#define COPY_SLOT(member) type->ht_type.member = model->ht_type.member

/* All that slotdefs has, and no more. */
static void
copy_slots(PyHeapTypeObject *type, const PyHeapTypeObject *model)
{
    COPY_SLOT(tp_getattr);
    COPY_SLOT(tp_setattr);
    COPY_SLOT(tp_repr);
    COPY_SLOT(tp_hash);
    COPY_SLOT(tp_call);
    COPY_SLOT(tp_str);
    COPY_SLOT(tp_getattro);
    COPY_SLOT(tp_setattro);
    COPY_SLOT(tp_richcompare);
    COPY_SLOT(tp_iter);
    COPY_SLOT(tp_iternext);
    COPY_SLOT(tp_descr_get);
    COPY_SLOT(tp_descr_set);
    COPY_SLOT(tp_init);
    COPY_SLOT(tp_new);
    COPY_SLOT(tp_finalize);
    type->as_async.am_await = model->as_async.am_await;
    type->as_async.am_aiter = model->as_async.am_aiter;
    type->as_async.am_anext = model->as_async.am_anext;
    type->as_number = model->as_number;
    type->as_mapping = model->as_mapping;
    type->as_sequence = model->as_sequence;
#if CLASSES_BUFFER_SLOTS
    type->as_buffer = model->as_buffer;
#endif
}

/* The function that update_one_slot puts into a slot to have the method looked up when it is wanted (slot_tp_init), or
   NULL. */
static void *
generic_function(const struct classes *all, size_t offset)
{
    return *slot_at(&all->special_model->ht_type, offset);
}

static void
set_generic(const struct classes *all, PyTypeObject *type, size_t offset)
{
    *slot_at(type, offset) = generic_function(all, offset);
    if (offset == offsetof(PyHeapTypeObject, ht_type.tp_call)) {
        type->tp_flags &= ~Py_TPFLAGS_HAVE_VECTORCALL; /* from 3.12 on it may have been inherited */
    }
}

bool
class_slots_of_program(PyObject *value)
{
    return !Py_IS_TYPE(value, &PyWrapperDescr_Type) && !PyCFunction_Check(value)
           && !(CLASSES_KEEP_METHODS && Py_IS_TYPE(value, &PyMethodDescr_Type));
}

/* Sets the slots of a special method of the program's. */
static void
set_slots(struct classes *all, PyTypeObject *type, PyObject *name, PyObject *method)
{
    for (int i = class_slots_name(all, name) + 1; i != 0; i = next_slot[i - 1]) {
        size_t offset = special_slots[i - 1].offset;
        if (offset == offsetof(PyHeapTypeObject, ht_type.tp_hash) && method == Py_None) {
            type->tp_hash = PyObject_HashNotImplemented;
        }
        else {
            set_generic(all, type, offset);
        }
    }
}

/* Of all special methods in the class's own dictionary; and of __hash__ = None, which PyType_Ready puts beside an
   __eq__. */
static bool
set_own_slots(struct classes *all, PyTypeObject *type, const struct class_specials *own)
{
    for (int i = 0; i <= own->count; i++) {
        PyObject *name = i < own->count ? own->names[i] : all->strings.hash;
        PyObject *method = own->count == 0 ? NULL : PyDict_GetItemWithError(type->tp_dict, name);
        if (method != NULL) {
            set_slots(all, type, name, method);
        }
        else if (PyErr_Occurred()) {
            return false;
        }
    }
    return true;
}

/* ---- several bases ----

   The order of the first base (tp_base) is part of the class's order, which other classes interrupt. Only a special
   method that one of those has may be found elsewhere than the first base finds it. */

/* Is the order of the class's base in its own order? type.mro() sees to that (C3 linearization). */
static bool
has_order_of_base(const PyTypeObject *type)
{
    PyObject *order = type->tp_mro, *base_order = type->tp_base->tp_mro;
    Py_ssize_t next = 0;
    for (Py_ssize_t i = 1; i < PyTuple_GET_SIZE(order); i++) {
        next += next < PyTuple_GET_SIZE(base_order) && PyTuple_GET_ITEM(order, i) == PyTuple_GET_ITEM(base_order, next);
    }
    return next == PyTuple_GET_SIZE(base_order);
}

/* What classes in this order, from the first on, have for a special method; borrowed. NULL: none, or an exception. */
static PyObject *
find_method(PyObject *order, Py_ssize_t first, PyObject *name)
{
    PyObject *method = NULL;
    for (Py_ssize_t i = first; method == NULL && i < PyTuple_GET_SIZE(order); i++) {
        PyObject *attributes = attributes_of((PyTypeObject *)PyTuple_GET_ITEM(order, i));
        method = attributes == NULL ? NULL : PyDict_GetItemWithError(attributes, name);
    }
    return method;
}

/* Has a special method one slot, which is its own? Where methods share slots, or have two, and all are the
   interpreter's, what else is there decides (update_one_slot, resolve_slotdups). */
static bool
has_own_slot(size_t first)
{
    for (size_t i = 0; i < SPECIAL_SLOTS; i++) {
        if (i != first
            && (special_slots[i].offset == special_slots[first].offset
                || strcmp(special_slots[i].name, special_slots[first].name) == 0)) {
            return false;
        }
    }
    return true;
}

/* Does what a class and its base find, the interpreter's both, give them the same in a slot of its own? */
static bool
are_same_wrappers(PyTypeObject *type, PyObject *method, PyObject *base_method)
{
    if (!Py_IS_TYPE(method, &PyWrapperDescr_Type) || !Py_IS_TYPE(base_method, &PyWrapperDescr_Type)) {
        return false;
    }
    const PyWrapperDescrObject *one = (PyWrapperDescrObject *)method, *other = (PyWrapperDescrObject *)base_method;
    return one->d_base == other->d_base && one->d_wrapped == other->d_wrapped
           && PyType_IsSubtype(type, PyDescr_TYPE(one)) && PyType_IsSubtype(type->tp_base, PyDescr_TYPE(other));
}

static bool
is_in(PyObject *tuple, PyObject *item)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
        if (PyTuple_GET_ITEM(tuple, i) == item) {
            return true;
        }
    }
    return false;
}

/* The slots of a special method that the class inherits from another base than the first, or might. False with an
   exception, or without one: that is for the interpreter to say. */
static bool
set_inherited_slots(struct classes *all, PyTypeObject *type, PyObject *name)
{
    int known = PyDict_Contains(type->tp_dict, name);
    if (known != 0) {
        return known > 0;
    }
    size_t first = (size_t)class_slots_name(all, name);
    PyObject *method = find_method(type->tp_mro, 1, name);
    PyObject *base_method = PyErr_Occurred() ? NULL : find_method(type->tp_base->tp_mro, 0, name);
    if (method == NULL || PyErr_Occurred()) {
        return false;
    }
    if (class_slots_of_program(method)) {
        if (method != base_method) {
            /* whatever shares them: one method of the program's decides (use_generic) */
            set_slots(all, type, name, method);
        }
        return true;
    }
    /* tp_new is the base's, if it isn't the program's */
    return has_own_slot(first)
           && ((base_method != NULL && are_same_wrappers(type, method, base_method))
               || (PyUnicode_Compare(name, all->strings.new) == 0 && PyCFunction_CheckExact(method)
                   && PyCFunction_GET_FUNCTION(method) == all->new_wrapper));
}

/* Have all classes behind the first of an order exact strings for keys? Looking up others runs their comparisons. */
static bool
have_plain_names(PyObject *order)
{
    for (Py_ssize_t i = 1; i < PyTuple_GET_SIZE(order); i++) {
        PyObject *attributes = attributes_of((PyTypeObject *)PyTuple_GET_ITEM(order, i));
        if (attributes == NULL || !native_has_plain_keys(attributes)) {
            return false;
        }
    }
    return true;
}

/* False with an exception, or without one: it is not ours to make. */
static bool
set_slots_of_others(struct classes *all, PyTypeObject *type)
{
    PyObject *order = type->tp_mro;
    if (!have_plain_names(order)) {
        return false;
    }
    for (Py_ssize_t i = 1; i < PyTuple_GET_SIZE(order); i++) {
        PyTypeObject *other = (PyTypeObject *)PyTuple_GET_ITEM(order, i);
        PyObject *name, *value, *attributes;
        if (is_in(type->tp_base->tp_mro, (PyObject *)other)) {
            continue;
        }
        attributes = attributes_of(other);
        for (Py_ssize_t at = 0; attributes != NULL && PyDict_Next(attributes, &at, &name, &value);) {
            if (!PyUnicode_CheckExact(name)
                || (class_slots_name(all, name) >= 0
                    && (class_slots_set_by_metatype(Py_TYPE(type), name) || !set_inherited_slots(all, type, name)))) {
                return false;
            }
        }
    }
    return true;
}

/* ---- deciding ---- */

/* What is found of each special method, at the index of its first slot; borrowed, NULL: nothing. False with an
   exception, or without one: a namespace has other keys than strings, which may pass for them. */
static bool
find_all(struct classes *all, PyTypeObject *type, PyObject **found)
{
    memset(found, 0, SPECIAL_SLOTS * sizeof(*found));
    for (Py_ssize_t i = PyTuple_GET_SIZE(type->tp_mro); --i >= 0;) {
        PyObject *attributes = attributes_of((PyTypeObject *)PyTuple_GET_ITEM(type->tp_mro, i)), *name, *value;
        if (attributes == NULL) {
            return false;
        }
        for (Py_ssize_t at = 0; PyDict_Next(attributes, &at, &name, &value);) {
            if (!PyUnicode_CheckExact(name)) {
                return false;
            }
            int first = class_slots_name(all, name);
            if (first >= 0) {
                found[first] = value;
            }
        }
    }
    return true;
}

/* The only slot of a special method that has a function; NULL: none or several have (resolve_slotdups). */
static void **
only_slot(PyTypeObject *type, size_t index)
{
    void **only = NULL;
    for (int i = first_of[index] + 1; i != 0; i = next_slot[i - 1]) {
        void **slot = slot_at(type, special_slots[i - 1].offset);
        if (*slot != NULL) {
            if (only != NULL) {
                return NULL;
            }
            only = slot;
        }
    }
    return only;
}

/* Is a slot wrapper made for this slot, or for one of the same method whose functions are called alike? That is so for
   two pairs: __len__ (wrap_lenfunc) and __iadd__ (wrap_binaryfunc). */
static bool
has_same_signature(const struct wrapperbase *made_for, size_t index)
{
    return (size_t)made_for->offset == special_slots[index].offset || strcmp(made_for->name, "__len__") == 0
           || strcmp(made_for->name, "__iadd__") == 0;
}

/* Is a method in C, which is no slot wrapper, the very function that the class has inherited in this slot? Then that
   stays (3.14: gh-132284, update_one_slot). */
static bool
is_inherited_function(PyObject *method, void *const *slot)
{
    return CLASSES_KEEP_METHODS && Py_IS_TYPE(method, &PyMethodDescr_Type) && *slot != NULL
           && *slot == (void *)((PyMethodDescrObject *)method)->d_method->ml_meth;
}

static bool
has_one_method(size_t index)
{
    size_t offset = special_slots[index].offset;
    return (index == 0 || special_slots[index - 1].offset != offset)
           && (index + 1 == SPECIAL_SLOTS || special_slots[index + 1].offset != offset);
}

#define CANNOT_BE_TOLD (SPECIAL_SLOTS + 1)

/* The slot at this index, by all methods that share it, as update_one_slot decides. Returns the index of the next
   slot, or CANNOT_BE_TOLD. */
static size_t
decide_slot(const struct classes *all, PyTypeObject *type, size_t index, PyObject *const *found)
{
    size_t offset = special_slots[index].offset;
    void **slot = slot_at(type, offset), *generic = NULL, *specific = NULL;
    bool use_generic = false;
    for (; index < SPECIAL_SLOTS && special_slots[index].offset == offset; index++) {
        PyObject *method = found[first_of[index]];
        if (method == NULL) {
            if (offset == offsetof(PyHeapTypeObject, ht_type.tp_iternext)) {
                specific = all->object_model->ht_type.tp_iternext; /* _PyObject_NextNotImplemented */
            }
        }
        else if (
            /* an extension's own description of a wrapper has no name_strobj, and is like any other object */
            Py_IS_TYPE(method, &PyWrapperDescr_Type) && ((PyWrapperDescrObject *)method)->d_base->name_strobj != NULL
            && strcmp(((PyWrapperDescrObject *)method)->d_base->name, special_slots[index].name) == 0) {
            const PyWrapperDescrObject *wrapper = (PyWrapperDescrObject *)method;
            void **only = only_slot(type, index);
            if (only == NULL || only == slot) {
                generic = generic_function(all, offset);
            }
            if ((specific == NULL || specific == wrapper->d_wrapped) && has_same_signature(wrapper->d_base, index)
                && PyType_IsSubtype(type, PyDescr_TYPE(wrapper))) {
                specific = wrapper->d_wrapped;
            }
            else {
                use_generic = true;
            }
        }
        else if (
            offset == offsetof(PyHeapTypeObject, ht_type.tp_new) && PyCFunction_CheckExact(method)
            && PyCFunction_GET_FUNCTION(method) == all->new_wrapper) {
            specific = *slot;
        }
        else if (offset == offsetof(PyHeapTypeObject, ht_type.tp_hash) && method == Py_None) {
            specific = (void *)PyObject_HashNotImplemented;
        }
        else if (is_inherited_function(method, slot)) {
            if (!has_one_method(index)) {
                return CANNOT_BE_TOLD;
            }
            specific = *slot;
        }
        else {
            use_generic = true;
            generic = generic_function(all, offset);
            if (offset == offsetof(PyHeapTypeObject, ht_type.tp_call)) {
                type->tp_flags &= ~Py_TPFLAGS_HAVE_VECTORCALL;
            }
        }
    }
    *slot = specific != NULL && !use_generic ? specific : generic;
    return index;
}

/* fixup_slot_dispatchers. False with an exception, or without one: find_all, or a slot can't be told. */
static bool
decide_slots(struct classes *all, PyTypeObject *type)
{
    PyObject *found[SPECIAL_SLOTS];
    if (!find_all(all, type, found)) {
        return false;
    }
    for (size_t i = 0; i < SPECIAL_SLOTS;) {
        i = decide_slot(all, type, i, found);
        if (i == CANNOT_BE_TOLD) {
            return false;
        }
    }
    return true;
}

/* ---- whose slots ---- */

/* Has a type of the interpreter's a special method that stands for two slots, as a sequence and as a mapping or
   number? */
static bool
has_paired_slots(const PyTypeObject *type)
{
    const PySequenceMethods *sequence = type->tp_as_sequence;
    const PyMappingMethods *mapping = type->tp_as_mapping;
    const PyNumberMethods *number = type->tp_as_number;
    return (sequence != NULL
            && (sequence->sq_length != NULL || sequence->sq_concat != NULL || sequence->sq_repeat != NULL
                || sequence->sq_item != NULL || sequence->sq_ass_item != NULL || sequence->sq_inplace_concat != NULL
                || sequence->sq_inplace_repeat != NULL))
           || (mapping != NULL
               && (mapping->mp_length != NULL || mapping->mp_subscript != NULL || mapping->mp_ass_subscript != NULL))
           || (number != NULL
               && (number->nb_add != NULL || number->nb_multiply != NULL || number->nb_inplace_add != NULL
                   || number->nb_inplace_multiply != NULL));
}

/* Are the slots of a class what those of a subclass without special methods would be? Not always where a class in its
   order has several bases, and a type of the interpreter's has paired slots: a subclass may inherit one of a pair from
   another base, and resolve_slotdups sees that. */
static bool
has_slots_of_subclass(const struct classes *all, const PyTypeObject *type)
{
    bool several = false, paired = false;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(type->tp_mro); i++) {
        const PyTypeObject *base = (PyTypeObject *)PyTuple_GET_ITEM(type->tp_mro, i);
        if (class_slots_by_class_statement(all, base)) {
            several |= PyTuple_GET_SIZE(base->tp_bases) > 1;
        }
        else {
            paired |= has_paired_slots(base);
        }
    }
    return !several || !paired;
}

/* The class whose slots are those of a subclass of `base` without special methods; NULL: not known. */
static const PyHeapTypeObject *
slots_of_subclass(const struct classes *all, PyTypeObject *base)
{
    return !class_slots_by_class_statement(all, base) ? model_of(all, base)
           : has_slots_of_subclass(all, base)         ? heap(base)
                                                      : NULL;
}

bool
class_slots_give(struct classes *all, PyTypeObject *type, const struct class_specials *own)
{
    PyTypeObject *base = type->tp_base;
    const PyHeapTypeObject *like = own->all_of_program && has_order_of_base(type) ? slots_of_subclass(all, base) : NULL;
    bool several = PyTuple_GET_SIZE(type->tp_bases) > 1;
    if (like != NULL) {
        PyHeapTypeObject inherited;
        if (several) {
            memcpy(&inherited, type, sizeof(inherited));
        }
        copy_slots(heap(type), like);
        if (like != heap(base) && !(like->ht_type.tp_flags & Py_TPFLAGS_HAVE_VECTORCALL)) {
            type->tp_flags &= ~Py_TPFLAGS_HAVE_VECTORCALL; /* decide_slot did */
        }
        if (!several || set_slots_of_others(all, type)) {
            return set_own_slots(all, type, own);
        }
        if (PyErr_Occurred()) {
            return false;
        }
        copy_slots(heap(type), &inherited);
        type->tp_flags |= inherited.ht_type.tp_flags & Py_TPFLAGS_HAVE_VECTORCALL;
    }
    if (!decide_slots(all, type)) {
        return false;
    }
    if (own->count == 0 && !several && !class_slots_by_class_statement(all, base)) {
        remember(all, type);
    }
    return true;
}

#endif
