/* Reading order: class_new, is_ordinary, make_class. Names of functions of Objects/typeobject.c are of 3.11 to 3.13. */
#include "classes.h"

#include <stdlib.h>
#include <string.h>

#if CLASSES_SUPPORTED

#define SLOT(name, member) {name, offsetof(PyHeapTypeObject, member)}

/* The special methods and the slots that stand for them (Objects/typeobject.c, slotdefs), by name. */
static const struct {
    const char *name;
    size_t offset;
} special_slots[] = {
    SLOT("__abs__", as_number.nb_absolute), SLOT("__add__", as_number.nb_add), SLOT("__add__", as_sequence.sq_concat),
    SLOT("__aiter__", as_async.am_aiter), SLOT("__and__", as_number.nb_and), SLOT("__anext__", as_async.am_anext),
    SLOT("__await__", as_async.am_await), SLOT("__bool__", as_number.nb_bool), SLOT("__call__", ht_type.tp_call),
    SLOT("__contains__", as_sequence.sq_contains), SLOT("__del__", ht_type.tp_finalize),
    SLOT("__delattr__", ht_type.tp_setattr), SLOT("__delattr__", ht_type.tp_setattro),
    SLOT("__delete__", ht_type.tp_descr_set), SLOT("__delitem__", as_mapping.mp_ass_subscript),
    SLOT("__delitem__", as_sequence.sq_ass_item), SLOT("__divmod__", as_number.nb_divmod),
    SLOT("__eq__", ht_type.tp_richcompare), SLOT("__float__", as_number.nb_float),
    SLOT("__floordiv__", as_number.nb_floor_divide), SLOT("__ge__", ht_type.tp_richcompare),
    SLOT("__get__", ht_type.tp_descr_get), SLOT("__getattr__", ht_type.tp_getattr),
    SLOT("__getattr__", ht_type.tp_getattro), SLOT("__getattribute__", ht_type.tp_getattr),
    SLOT("__getattribute__", ht_type.tp_getattro), SLOT("__getitem__", as_mapping.mp_subscript),
    SLOT("__getitem__", as_sequence.sq_item), SLOT("__gt__", ht_type.tp_richcompare),
    SLOT("__hash__", ht_type.tp_hash), SLOT("__iadd__", as_number.nb_inplace_add),
    SLOT("__iadd__", as_sequence.sq_inplace_concat), SLOT("__iand__", as_number.nb_inplace_and),
    SLOT("__ifloordiv__", as_number.nb_inplace_floor_divide), SLOT("__ilshift__", as_number.nb_inplace_lshift),
    SLOT("__imatmul__", as_number.nb_inplace_matrix_multiply), SLOT("__imod__", as_number.nb_inplace_remainder),
    SLOT("__imul__", as_number.nb_inplace_multiply), SLOT("__imul__", as_sequence.sq_inplace_repeat),
    SLOT("__index__", as_number.nb_index), SLOT("__init__", ht_type.tp_init), SLOT("__int__", as_number.nb_int),
    SLOT("__invert__", as_number.nb_invert), SLOT("__ior__", as_number.nb_inplace_or),
    SLOT("__ipow__", as_number.nb_inplace_power), SLOT("__irshift__", as_number.nb_inplace_rshift),
    SLOT("__isub__", as_number.nb_inplace_subtract), SLOT("__iter__", ht_type.tp_iter),
    SLOT("__itruediv__", as_number.nb_inplace_true_divide), SLOT("__ixor__", as_number.nb_inplace_xor),
    SLOT("__le__", ht_type.tp_richcompare), SLOT("__len__", as_mapping.mp_length),
    SLOT("__len__", as_sequence.sq_length), SLOT("__lshift__", as_number.nb_lshift),
    SLOT("__lt__", ht_type.tp_richcompare), SLOT("__matmul__", as_number.nb_matrix_multiply),
    SLOT("__mod__", as_number.nb_remainder), SLOT("__mul__", as_number.nb_multiply),
    SLOT("__mul__", as_sequence.sq_repeat), SLOT("__ne__", ht_type.tp_richcompare),
    SLOT("__neg__", as_number.nb_negative), SLOT("__new__", ht_type.tp_new), SLOT("__next__", ht_type.tp_iternext),
    SLOT("__or__", as_number.nb_or), SLOT("__pos__", as_number.nb_positive), SLOT("__pow__", as_number.nb_power),
    SLOT("__radd__", as_number.nb_add), SLOT("__rand__", as_number.nb_and), SLOT("__rdivmod__", as_number.nb_divmod),
    SLOT("__repr__", ht_type.tp_repr), SLOT("__rfloordiv__", as_number.nb_floor_divide),
    SLOT("__rlshift__", as_number.nb_lshift), SLOT("__rmatmul__", as_number.nb_matrix_multiply),
    SLOT("__rmod__", as_number.nb_remainder), SLOT("__rmul__", as_number.nb_multiply),
    SLOT("__rmul__", as_sequence.sq_repeat), SLOT("__ror__", as_number.nb_or), SLOT("__rpow__", as_number.nb_power),
    SLOT("__rrshift__", as_number.nb_rshift), SLOT("__rshift__", as_number.nb_rshift),
    SLOT("__rsub__", as_number.nb_subtract), SLOT("__rtruediv__", as_number.nb_true_divide),
    SLOT("__rxor__", as_number.nb_xor), SLOT("__set__", ht_type.tp_descr_set), SLOT("__setattr__", ht_type.tp_setattr),
    SLOT("__setattr__", ht_type.tp_setattro), SLOT("__setitem__", as_mapping.mp_ass_subscript),
    SLOT("__setitem__", as_sequence.sq_ass_item), SLOT("__str__", ht_type.tp_str),
    SLOT("__sub__", as_number.nb_subtract), SLOT("__truediv__", as_number.nb_true_divide),
    SLOT("__xor__", as_number.nb_xor),
#if CLASSES_BUFFER_SLOTS
    SLOT("__buffer__", as_buffer.bf_getbuffer), SLOT("__release_buffer__", as_buffer.bf_releasebuffer),
#endif
};

#define SPECIAL_SLOTS (sizeof(special_slots) / sizeof(special_slots[0]))

/* Of the process, as the type `type` is; only the main interpreter's classes are made here. */
static newfunc plain_new; /* what was replaced; NULL: nothing was */
static loader_state *serving; /* NULL: all classes are type.__new__'s */

static inline PyHeapTypeObject *
heap(PyTypeObject *type)
{
    return (PyHeapTypeObject *)type;
}

/* ---- names ---- */

#define NAME_BUCKETS 256 /* more than three for each name */

static unsigned char name_table[NAME_BUCKETS]; /* index + 1 of the first slot of a special method, 0 is empty */

static unsigned int
name_bucket(const char *text)
{
    unsigned int hash = 0;
    for (const char *at = text + 2; *at != '_' && *at != '\0'; at++) {
        hash = hash * 31 + (unsigned char)*at;
    }
    return (hash ^ hash >> 8) % NAME_BUCKETS;
}

static void
fill_name_table(void)
{
    memset(name_table, 0, sizeof(name_table));
    for (size_t i = 0; i < SPECIAL_SLOTS; i++) {
        if (i > 0 && strcmp(special_slots[i].name, special_slots[i - 1].name) == 0) {
            continue;
        }
        unsigned int bucket = name_bucket(special_slots[i].name);
        while (name_table[bucket] != 0) {
            bucket = (bucket + 1) % NAME_BUCKETS;
        }
        name_table[bucket] = (unsigned char)(i + 1);
    }
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

/* The index of the first slot that a special method has; -1: it isn't one. */
static int
first_slot(PyObject *name)
{
    if (!is_dunder(name)) {
        return -1;
    }
    const char *text = PyUnicode_DATA(name);
    for (unsigned int bucket = name_bucket(text); name_table[bucket] != 0; bucket = (bucket + 1) % NAME_BUCKETS) {
        if (strcmp(special_slots[name_table[bucket] - 1].name, text) == 0) {
            return name_table[bucket] - 1;
        }
    }
    return -1;
}

static bool
is_special(PyObject *name)
{
    return first_slot(name) >= 0;
}

/* ---- models ---- */

/* Was a heap type made by a class statement, so that fixup_slot_dispatchers made its slots? Those that are made by
   PyType_FromSpec have a copy of their name; others have a tp_dealloc of their own. */
static bool
made_by_class_statement(const struct classes *all, const PyTypeObject *type)
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

static bool
is_static(const PyTypeObject *type)
{
    return !(type->tp_flags & Py_TPFLAGS_HEAPTYPE);
}

static unsigned int
valid_tag(const PyTypeObject *type)
{
    return !CLASSES_TAGS_ARE_FLAGGED || type->tp_flags & Py_TPFLAGS_VALID_VERSION_TAG ? type->tp_version_tag : 0;
}

/* What subclasses of a type that no class statement made are like; NULL: not known yet. That of a type on the heap is good
   as long as the type has the version tag that it had: every change gives it another one, as does its end. */
static PyHeapTypeObject *
model_of(const struct classes *all, const PyTypeObject *base)
{
    if (base == &PyBaseObject_Type) {
        return all->object_model;
    }
    for (int i = 0; i < all->model_count; i++) {
        const struct class_model *known = &all->models[i];
        if (known->base == base && (is_static(base) || (known->tag != 0 && known->tag == valid_tag(base)))) {
            return known->model;
        }
    }
    return NULL;
}

static PyHeapTypeObject *
copy_model(PyTypeObject *type)
{
    PyHeapTypeObject *copy = malloc(sizeof(*copy));
    if (copy != NULL) {
        memcpy(copy, type, sizeof(*copy));
    }
    return copy;
}

/* Is it a type of which models are made? */
static bool
wants_model(const struct classes *all, PyTypeObject *type)
{
    const PyTypeObject *base = type->tp_base;
    return base != NULL && base != &PyBaseObject_Type && PyTuple_GET_SIZE(type->tp_bases) == 1
           && !made_by_class_statement(all, base) && model_of(all, base) == NULL;
}

/* Learns from a class that type.__new__ has made what subclasses of its base look like. */
static void
learn(struct classes *all, PyTypeObject *type)
{
    PyTypeObject *base = type->tp_base;
    struct class_model *known = all->models;
    while (known < &all->models[all->model_count] && known->base != base) {
        known++;
    }
    PyHeapTypeObject *model = known == &all->models[CLASSES_MODELS] ? NULL : copy_model(type);
    if (model != NULL) {
        if (known == &all->models[all->model_count]) {
            all->model_count++;
        }
        else {
            free(known->model);
        }
        *known = (struct class_model){.base = base, .model = model, .tag = valid_tag(base)};
    }
}

/* ---- is it a class that we make? ---- */

#define MOST_SPECIAL 128

struct request {
    PyTypeObject *metatype;
    PyObject *name, *bases; /* borrowed */
    PyObject *namespace; /* owned: a copy, which nobody else has; NULL once it is the class's */
    PyTypeObject *base; /* as best_base has it */
    PyObject *declared; /* borrowed: __slots__; NULL: it has none */
    PyObject *members; /* what becomes of these, sorted; owned; NULL: no __slots__ */
    bool adds_dictionary, adds_references; /* instances get a dictionary, weak references */
    bool told; /* attributes that want to be told their name */
    int special_count;
    PyObject *special[MOST_SPECIAL]; /* borrowed: names of the special methods in the namespace */
};

/* Would type.__setattr__ leave this to a descriptor of the metaclass? */
static bool
metatype_sets(PyTypeObject *metatype, PyObject *name)
{
    if (metatype == &PyType_Type) {
        return false;
    }
    PyObject *descriptor = _PyType_Lookup(metatype, name);
    return descriptor != NULL && Py_TYPE(descriptor)->tp_descr_set != NULL;
}

/* A slot wrapper stands for a slot of another class, and type.__new__'s like have rules of their own (update_one_slot). */
static bool
method_is_ordinary(PyObject *value)
{
    return !Py_IS_TYPE(value, &PyWrapperDescr_Type) && !PyCFunction_Check(value);
}

/* The names in __slots__, as type_new_visit_slots and type_new_copy_slots treat them, if nothing is unusual: not those that
   are mangled, or clash, or stand for a special method. */
static bool
take_slots(struct request *request)
{
    PyObject *declared = request->declared, *one[] = {declared};
    PyObject **names = one;
    Py_ssize_t count = 1;
    if (PyTuple_CheckExact(declared) || PyList_CheckExact(declared)) {
        names = PySequence_Fast_ITEMS(declared);
        count = PySequence_Fast_GET_SIZE(declared);
    }
    if (count == 0) {
        request->members = PyTuple_New(0); /* of which there is only one */
        return true;
    }
    PyObject *list = request->base->tp_itemsize != 0 ? NULL : PyList_New(0);
    bool good = list != NULL;
    for (Py_ssize_t i = 0; good && i < count; i++) {
        PyObject *name = names[i];
        good = PyUnicode_CheckExact(name) && PyUnicode_IS_COMPACT_ASCII(name) && PyUnicode_IsIdentifier(name) == 1;
        const char *text = good ? PyUnicode_DATA(name) : "";
        if (!good || strncmp(text, "__", 2) != 0) {
            good = good && PyDict_Contains(request->namespace, name) == 0 && PyList_Append(list, name) == 0;
        }
        else if (strcmp(text, "__dict__") == 0) {
            good = request->base->tp_dictoffset == 0 && !request->adds_dictionary;
            request->adds_dictionary = true;
        }
        else {
            good = strcmp(text, "__weakref__") == 0 && request->base->tp_weaklistoffset == 0 && !request->adds_references;
            request->adds_references = true;
        }
    }
    if (good && PyList_Sort(list) == 0) {
        request->members = PyList_AsTuple(list);
    }
    Py_XDECREF(list);
    return request->members != NULL;
}

static bool
namespace_is_ordinary(const struct classes *all, struct request *request)
{
    const struct class_strings *names = &all->strings;
    PyObject *name, *value;
    for (Py_ssize_t at = 0; PyDict_Next(request->namespace, &at, &name, &value);) {
        if (!PyUnicode_CheckExact(name)) {
            return false;
        }
        if (!PyFunction_Check(value) && _PyType_Lookup(Py_TYPE(value), names->set_name) != NULL) {
            request->told = true;
        }
        if (!is_dunder(name)) {
            continue;
        }
        if (is_special(name)) {
            if (request->special_count == MOST_SPECIAL || !method_is_ordinary(value)
                || metatype_sets(request->metatype, name)) {
                return false;
            }
            request->special[request->special_count++] = name;
        }
        else if (PyUnicode_Compare(name, names->slots) == 0) {
            request->declared = value;
        }
        else if (PyUnicode_Compare(name, names->qualname) == 0) {
            if (!PyUnicode_CheckExact(value)) {
                return false;
            }
        }
        else if (
            (PyUnicode_Compare(name, names->classcell) == 0
             || (CLASSES_DICTIONARY_CELL && PyUnicode_Compare(name, names->classdictcell) == 0))
            && !PyCell_Check(value)) {
            return false;
        }
    }
    return true;
}

/* What type_new_get_bases, best_base and _PyType_CalculateMetaclass check. */
static bool
is_good_base(PyTypeObject *metatype, PyObject *base)
{
    return PyType_Check(base) && PyType_IsSubtype(metatype, Py_TYPE(base))
           && ((PyTypeObject *)base)->tp_flags & Py_TPFLAGS_READY && ((PyTypeObject *)base)->tp_flags & Py_TPFLAGS_BASETYPE;
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

/* The first of a type's bases, itself included, that says what instances have (solid_base). */
static PyTypeObject *
solid_base(PyTypeObject *type, bool *known)
{
    PyTypeObject *solid = type;
    while (solid->tp_base != NULL && !classes_extends(solid, solid->tp_base, known)) {
        solid = solid->tp_base;
    }
    return solid;
}

/* best_base; NULL: there is none, or it can't be told. */
static PyTypeObject *
best_base(PyObject *bases)
{
    PyTypeObject *best = &PyBaseObject_Type, *winner = NULL;
    bool known = true;
    if (PyTuple_GET_SIZE(bases) == 1) {
        return (PyTypeObject *)PyTuple_GET_ITEM(bases, 0);
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(bases); i++) {
        PyTypeObject *base = (PyTypeObject *)PyTuple_GET_ITEM(bases, i), *candidate = solid_base(base, &known);
        if (winner == NULL || (!PyType_IsSubtype(winner, candidate) && PyType_IsSubtype(candidate, winner))) {
            winner = candidate;
            best = base;
        }
        else if (!PyType_IsSubtype(winner, candidate)) {
            return NULL;
        }
    }
    return known ? best : NULL;
}

/* type_new_slots: what instances have in addition to those of the base. */
static bool
add_to_instances(struct request *request)
{
    const PyTypeObject *base = request->base;
    bool may_add_dictionary = base->tp_dictoffset == 0;
    bool may_add_references = base->tp_weaklistoffset == 0 && base->tp_itemsize == 0;
    if (request->declared == NULL) {
        request->adds_dictionary = may_add_dictionary;
        request->adds_references = may_add_references;
        return true;
    }
    if (!take_slots(request)) {
        return false;
    }
    /* type_new_slots_bases */
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(request->bases); i++) {
        const PyTypeObject *other = (PyTypeObject *)PyTuple_GET_ITEM(request->bases, i);
        request->adds_dictionary |= other != base && may_add_dictionary && other->tp_dictoffset != 0;
        request->adds_references |= other != base && may_add_references && other->tp_weaklistoffset != 0;
    }
    return true;
}

/* Has a type of the interpreter's a special method that stands for two slots, as a sequence and as a mapping or number? */
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

/* Are the slots of a class what those of a subclass without special methods would be? Not always where a class in its order has
   several bases, and a type of the interpreter's has paired slots: a subclass may inherit one of a pair from another base, and
   resolve_slotdups sees that. */
static bool
has_slots_of_subclass(const struct classes *all, const PyTypeObject *type)
{
    bool several = false, paired = false;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(type->tp_mro); i++) {
        const PyTypeObject *base = (PyTypeObject *)PyTuple_GET_ITEM(type->tp_mro, i);
        if (made_by_class_statement(all, base)) {
            several |= PyTuple_GET_SIZE(base->tp_bases) > 1;
        }
        else {
            paired |= has_paired_slots(base);
        }
    }
    return !several || !paired;
}

/* Whose slots the class gets; NULL: not known. Asked again when that matters: what has happened until then (a collection, the
   end of what __classcell__ held) may have run anything. */
static const PyHeapTypeObject *
slots_for(const struct classes *all, PyTypeObject *base)
{
    return !made_by_class_statement(all, base)  ? model_of(all, base)
           : has_slots_of_subclass(all, base) ? heap(base)
                                              : NULL;
}

static bool
bases_are_ordinary(const struct classes *all, struct request *request)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(request->bases); i++) {
        if (!is_good_base(request->metatype, PyTuple_GET_ITEM(request->bases, i))) {
            return false;
        }
    }
    request->base = best_base(request->bases);
    if (request->base == NULL) {
        return false;
    }
    return slots_for(all, request->base) != NULL && add_to_instances(request);
}

/* Is it a case for us, as far as can be told before the method resolution order is known? May leave an exception, of no
   memory. */
static bool
is_ordinary(const struct classes *all, struct request *request)
{
    PyTypeObject *metatype = request->metatype;
    return PyUnicode_CheckExact(request->name) && PyTuple_CheckExact(request->bases)
           && metatype->tp_alloc == PyType_GenericAlloc && metatype->tp_finalize == NULL && metatype->tp_del == NULL
           && (metatype == &PyType_Type || _PyType_Lookup(metatype, all->strings.mro) == all->plain_mro)
           && namespace_is_ordinary(all, request) && bases_are_ordinary(all, request);
}

/* ---- making it ---- */

/* Takes an item out of a class's dictionary. New reference; NULL with *failed or without. */
static PyObject *
take_out(PyObject *dictionary, PyObject *name, bool *failed)
{
    PyObject *value = Py_XNewRef(PyDict_GetItemWithError(dictionary, name));
    *failed = value == NULL ? PyErr_Occurred() != NULL : PyDict_DelItem(dictionary, name) < 0;
    if (*failed) {
        Py_CLEAR(value);
    }
    return value;
}

/* type_new_set_name, _set_module, _set_ht_name */
static bool
set_names_of_class(const struct classes *all, PyTypeObject *type)
{
    const struct class_strings *names = &all->strings;
    Py_ssize_t size;
    type->tp_name = PyUnicode_AsUTF8AndSize(heap(type)->ht_name, &size);
    if (type->tp_name == NULL) {
        return false;
    }
    if (strlen(type->tp_name) != (size_t)size) {
        PyErr_SetString(PyExc_ValueError, "type name must not contain null characters");
        return false;
    }
    int known = PyDict_Contains(type->tp_dict, names->module);
    PyObject *globals = known == 0 ? PyEval_GetGlobals() : NULL;
    if (globals != NULL) {
        PyObject *module = PyDict_GetItemWithError(globals, names->name);
        if (module != NULL && PyDict_SetItem(type->tp_dict, names->module, module) < 0) {
            return false;
        }
    }
    if (known < 0 || PyErr_Occurred()) {
        return false;
    }
    bool failed;
    PyObject *qualname = take_out(type->tp_dict, names->qualname, &failed);
    heap(type)->ht_qualname = qualname != NULL || failed ? qualname : Py_NewRef(heap(type)->ht_name);
    return !failed;
}

/* type_new_set_doc: a copy of the documentation, if it is a string. */
static bool
set_documentation(const struct classes *all, PyTypeObject *type)
{
    PyObject *documentation = PyDict_GetItemWithError(type->tp_dict, all->strings.doc);
    if (documentation == NULL || !PyUnicode_Check(documentation)) {
        return !PyErr_Occurred();
    }
    const char *text = PyUnicode_AsUTF8(documentation);
    if (text == NULL) {
        return false;
    }
    size_t size = strlen(text) + 1;
    char *copy = CLASSES_ALLOCATE_DOCUMENTATION(size);
    if (copy == NULL) {
        PyErr_NoMemory();
        return false;
    }
    memcpy(copy, text, size);
    type->tp_doc = copy;
    return true;
}

/* type_new_staticmethod, type_new_classmethod: a plain function of that name becomes a static or class method. */
static bool
wrap_method(PyTypeObject *type, PyObject *name, PyObject *(*wrap)(PyObject *))
{
    PyObject *function = PyDict_GetItemWithError(type->tp_dict, name);
    if (function == NULL || !PyFunction_Check(function)) {
        return !PyErr_Occurred();
    }
    PyObject *method = wrap(function);
    int result = method == NULL ? -1 : PyDict_SetItem(type->tp_dict, name, method);
    Py_XDECREF(method);
    return result == 0;
}

/* type_new_set_classcell, _set_classdictcell: what methods refer to as __class__. */
static bool
fill_cell(PyTypeObject *type, PyObject *name, PyObject *content)
{
    bool failed;
    PyObject *cell = take_out(type->tp_dict, name, &failed);
    if (cell != NULL) {
        (void)PyCell_Set(cell, content);
        Py_DECREF(cell);
    }
    return !failed;
}

/* type_new_descriptors and type_new_set_slots: members that __slots__ declare, and what comes with a dictionary and with weak
   references. */
static bool
describe_instances(const struct classes *all, const struct request *request, PyTypeObject *type)
{
    PyMemberDef *member = (PyMemberDef *)((char *)type + request->metatype->tp_basicsize);
    Py_ssize_t size = request->base->tp_basicsize;
    type->tp_members = member;
    for (Py_ssize_t i = 0; request->members != NULL && i < PyTuple_GET_SIZE(request->members); i++, member++) {
        member->name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(request->members, i));
        if (member->name == NULL) {
            return false;
        }
        member->type = CLASSES_MEMBER_TYPE;
        member->offset = size;
        size += (Py_ssize_t)sizeof(PyObject *);
    }
    heap(type)->ht_slots = Py_XNewRef(request->members);
    type->tp_basicsize = size;
    type->tp_itemsize = request->base->tp_itemsize;
    classes_add_to_instances(type, request->adds_dictionary, request->adds_references);
    type->tp_getset = request->adds_dictionary && request->adds_references ? all->object_model->ht_type.tp_getset
                      : request->adds_dictionary                           ? all->dictionary_getset
                      : request->adds_references                           ? all->references_getset
                                                                           : NULL;
    return true;
}

/* type_new_alloc */
static PyTypeObject *
allocate(const struct classes *all, struct request *request)
{
    Py_ssize_t members = request->members == NULL ? 0 : PyTuple_GET_SIZE(request->members);
    PyTypeObject *type = (PyTypeObject *)request->metatype->tp_alloc(request->metatype, members);
    if (type == NULL) {
        return NULL;
    }
    const PyTypeObject *object_model = &all->object_model->ht_type;
    type->tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HEAPTYPE | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC;
    type->tp_as_async = &heap(type)->as_async;
    type->tp_as_number = &heap(type)->as_number;
    type->tp_as_sequence = &heap(type)->as_sequence;
    type->tp_as_mapping = &heap(type)->as_mapping;
    type->tp_as_buffer = &heap(type)->as_buffer;
    type->tp_bases = Py_NewRef(PyTuple_GET_SIZE(request->bases) != 0 ? request->bases : all->object_bases);
    type->tp_base = (PyTypeObject *)Py_NewRef(request->base);
    type->tp_dealloc = object_model->tp_dealloc;
    type->tp_alloc = PyType_GenericAlloc;
    type->tp_free = PyObject_GC_Del;
    type->tp_traverse = object_model->tp_traverse;
    type->tp_clear = object_model->tp_clear;
    heap(type)->ht_name = Py_NewRef(request->name);
    type->tp_dict = request->namespace;
    request->namespace = NULL;
    if (!describe_instances(all, request, type)) {
        Py_DECREF(type);
        return NULL;
    }
    return type;
}

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

/* Sets the slots of a special method that is none of the interpreter's slot wrappers: update_one_slot gives them the function
   that looks the method up when it is wanted (slot_tp_init, or none), as in a class that has all special methods. */
static void
set_slots(const struct classes *all, PyTypeObject *type, PyObject *name, PyObject *method)
{
    int first = first_slot(name);
    for (size_t i = (size_t)first; i < SPECIAL_SLOTS && strcmp(special_slots[i].name, special_slots[first].name) == 0; i++) {
        size_t offset = special_slots[i].offset;
        memcpy((char *)type + offset, (const char *)all->special_model + offset, sizeof(void (*)(void)));
        if (offset == offsetof(PyHeapTypeObject, ht_type.tp_call)) {
            type->tp_flags &= ~Py_TPFLAGS_HAVE_VECTORCALL; /* from 3.12 on it may have been inherited */
        }
        else if (offset == offsetof(PyHeapTypeObject, ht_type.tp_hash) && method == Py_None) {
            type->tp_hash = PyObject_HashNotImplemented;
        }
    }
}

/* Of all special methods in the class's own dictionary; and of __hash__ = None, which PyType_Ready puts beside an __eq__. */
static bool
set_own_slots(const struct classes *all, PyTypeObject *type, const struct request *request)
{
    for (int i = 0; i <= request->special_count; i++) {
        PyObject *name = i < request->special_count ? request->special[i] : all->strings.hash;
        PyObject *method = request->special_count == 0 ? NULL : PyDict_GetItemWithError(type->tp_dict, name);
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

   The order of the first base (tp_base) is part of the class's order, which other classes interrupt. Only a special method
   that one of those has may be found elsewhere than the first base finds it. */

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

/* Has a special method one slot, which is its own? Where methods share slots, or have two, and all are the interpreter's, what
   else is there decides (update_one_slot, resolve_slotdups). */
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

/* The slots of a special method that the class inherits from another base than the first, or might. False with an exception,
   or without one: that is for the interpreter to say. */
static bool
set_inherited_slots(struct classes *all, PyTypeObject *type, PyObject *name)
{
    int known = PyDict_Contains(type->tp_dict, name);
    if (known != 0) {
        return known > 0;
    }
    size_t first = (size_t)first_slot(name);
    PyObject *method = find_method(type->tp_mro, 1, name);
    PyObject *base_method = PyErr_Occurred() ? NULL : find_method(type->tp_base->tp_mro, 0, name);
    if (method == NULL || PyErr_Occurred()) {
        return false;
    }
    if (method_is_ordinary(method)) {
        if (method != base_method) {
            set_slots(all, type, name, method); /* whatever shares them: one method of the program's decides (use_generic) */
        }
        return true;
    }
    /* tp_new is the base's, if it isn't the program's */
    return has_own_slot(first)
           && ((base_method != NULL && are_same_wrappers(type, method, base_method))
               || (PyUnicode_Compare(name, all->strings.new) == 0 && PyCFunction_CheckExact(method)
                   && PyCFunction_GET_FUNCTION(method) == all->new_wrapper));
}

/* False with an exception, or without one: it is not ours to make. */
static bool
set_slots_of_others(struct classes *all, PyTypeObject *type)
{
    PyObject *order = type->tp_mro;
    for (Py_ssize_t i = 1; i < PyTuple_GET_SIZE(order); i++) {
        PyTypeObject *other = (PyTypeObject *)PyTuple_GET_ITEM(order, i);
        PyObject *name, *value, *attributes;
        if (is_in(type->tp_base->tp_mro, (PyObject *)other)) {
            continue;
        }
        attributes = attributes_of(other);
        for (Py_ssize_t at = 0; attributes != NULL && PyDict_Next(attributes, &at, &name, &value);) {
            if (!PyUnicode_CheckExact(name)
                || (is_special(name)
                    && (metatype_sets(Py_TYPE(type), name) || !set_inherited_slots(all, type, name)))) {
                return false;
            }
        }
    }
    return true;
}

/* ---- what follows ---- */

/* A special method of an object's class, bound (_PyObject_LookupSpecial). New reference; NULL with an exception or without. */
static PyObject *
special_method(PyObject *object, PyObject *name)
{
    PyObject *method = Py_XNewRef(_PyType_Lookup(Py_TYPE(object), name));
    descrgetfunc bind = method == NULL ? NULL : Py_TYPE(method)->tp_descr_get;
    if (bind != NULL) {
        Py_SETREF(method, bind(method, object, (PyObject *)Py_TYPE(object)));
    }
    return method;
}

/* type_new_set_names: attributes are told their name and class. */
static bool
tell_attributes(const struct classes *all, PyTypeObject *type)
{
    PyObject *name, *value;
    PyObject *copy = PyDict_Copy(type->tp_dict);
    bool failed = copy == NULL;
    for (Py_ssize_t at = 0; !failed && PyDict_Next(copy, &at, &name, &value);) {
        PyObject *set_name = special_method(value, all->strings.set_name);
        if (set_name == NULL) {
            failed = PyErr_Occurred() != NULL;
            continue;
        }
        PyObject *result = PyObject_CallFunctionObjArgs(set_name, type, name, NULL);
        Py_DECREF(set_name);
        failed = result == NULL;
        if (failed) {
            classes_explain_set_name(type, name, value);
        }
        Py_XDECREF(result);
    }
    Py_XDECREF(copy);
    return !failed;
}

/* Is object.__init_subclass__, which does nothing, what super() finds? Looked up as it does (super_getattro), without the cache
   of methods, which would number the classes. Types whose dictionary belongs to the interpreter (tp_dict is NULL from 3.12
   on) are its own; only `object` has one among them. */
static bool
bases_want_nothing(const struct classes *all, const PyTypeObject *type)
{
    bool nothing = true;
    for (Py_ssize_t i = 1; nothing && i < PyTuple_GET_SIZE(type->tp_mro); i++) {
        PyTypeObject *base = (PyTypeObject *)PyTuple_GET_ITEM(type->tp_mro, i);
        nothing = base == &PyBaseObject_Type || base->tp_dict == NULL
                  || PyDict_Contains(base->tp_dict, all->strings.init_subclass) == 0;
    }
    PyErr_Clear();
    return nothing;
}

/* type_new_init_subclass: the bases are told of their subclass. */
static bool
tell_bases(const struct classes *all, PyTypeObject *type, PyObject *keywords)
{
    if ((keywords == NULL || PyDict_GET_SIZE(keywords) == 0) && bases_want_nothing(all, type)) {
        return true;
    }
    PyObject *super = PyObject_CallFunctionObjArgs((PyObject *)&PySuper_Type, type, type, NULL);
    PyObject *method = super == NULL ? NULL : PyObject_GetAttr(super, all->strings.init_subclass);
    Py_XDECREF(super);
    PyObject *result = method == NULL ? NULL : PyObject_VectorcallDict(method, NULL, 0, keywords);
    Py_XDECREF(method);
    Py_XDECREF(result);
    return result != NULL;
}

/* Frees a class that nobody has: as the collector would (type_clear breaks the cycle), but at once, so that it is never
   seen among object.__subclasses__(). */
static void
discard(PyObject *type)
{
    if (type != NULL) {
        Py_TYPE(type)->tp_clear(type);
        Py_DECREF(type);
    }
}

/* type_new_impl. New reference; NULL with an exception, or without one and nothing done: it is not ours to make. */
static PyObject *
make_class(struct classes *all, struct request *request, PyObject *keywords)
{
    const struct class_strings *names = &all->strings;
    PyTypeObject *type = allocate(all, request);
    if (type == NULL) {
        return NULL;
    }
    if (!set_names_of_class(all, type) || !set_documentation(all, type)
        || !wrap_method(type, names->new, PyStaticMethod_New) || !wrap_method(type, names->init_subclass, PyClassMethod_New)
        || !wrap_method(type, names->class_getitem, PyClassMethod_New)
        || !fill_cell(type, names->classcell, (PyObject *)type)
        || (CLASSES_DICTIONARY_CELL && !fill_cell(type, names->classdictcell, type->tp_dict)) || PyType_Ready(type) < 0) {
        Py_DECREF(type);
        return NULL;
    }
    const PyHeapTypeObject *slots = slots_for(all, request->base);
    if (slots != NULL) {
        copy_slots(heap(type), slots);
    }
    if (slots == NULL || !has_order_of_base(type) || (PyTuple_GET_SIZE(type->tp_bases) > 1 && !set_slots_of_others(all, type))) {
        discard((PyObject *)type);
        return NULL;
    }
    if (!set_own_slots(all, type, request)
        || (request->told && !tell_attributes(all, type)) || !tell_bases(all, type, keywords)) {
        Py_DECREF(type);
        return NULL;
    }
    return (PyObject *)type;
}

/* New reference; NULL with an exception, or without one and nothing done: it is not ours to make. */
static PyObject *
make_class_if_ordinary(struct classes *all, PyTypeObject *metatype, PyObject *arguments, PyObject *keywords)
{
    if (!PyTuple_CheckExact(arguments) || PyTuple_GET_SIZE(arguments) != 3) {
        return NULL;
    }
    PyObject *namespace = PyTuple_GET_ITEM(arguments, 2);
    if (!PyDict_Check(namespace) || Py_TYPE(namespace)->tp_iter != PyDict_Type.tp_iter) {
        return NULL;
    }
    struct request request = {
        .metatype = metatype,
        .name = PyTuple_GET_ITEM(arguments, 0),
        .bases = PyTuple_GET_ITEM(arguments, 1),
        .namespace = PyDict_Copy(namespace),
    };
    PyObject *type = request.namespace != NULL && is_ordinary(all, &request) ? make_class(all, &request, keywords) : NULL;
    Py_XDECREF(request.namespace);
    Py_XDECREF(request.members);
    return type;
}

/* Can something be learnt from the class that type.__new__ is about to make? It must have no special methods, and nothing may
   be told of it, which could give it some and take them away again. */
static bool
is_instructive(const struct classes *all, PyTypeObject *metatype, PyObject *arguments)
{
    if (metatype != &PyType_Type || !PyTuple_CheckExact(arguments) || PyTuple_GET_SIZE(arguments) != 3
        || !PyDict_CheckExact(PyTuple_GET_ITEM(arguments, 2))) {
        return false;
    }
    PyObject *name, *value;
    for (Py_ssize_t at = 0; PyDict_Next(PyTuple_GET_ITEM(arguments, 2), &at, &name, &value);) {
        if (!PyUnicode_CheckExact(name) || is_special(name) || _PyType_Lookup(Py_TYPE(value), all->strings.set_name) != NULL) {
            return false;
        }
    }
    return true;
}

/* Where a second subclass of a type is made, and nothing was to be learnt from the first one, a class is made to be looked at,
   and is gone again before anybody could see it. */
static void
make_model(struct classes *all, PyTypeObject *base)
{
    bool seen = false;
    for (int i = 0; i < CLASSES_SEEN; i++) {
        seen |= all->seen_bases[i] == base;
    }
    if (!seen) {
        all->seen_bases[all->seen_count++ % CLASSES_SEEN] = base; /* compared only */
        return;
    }
    PyObject *arguments = Py_BuildValue("(s(O){ss})", "x", base, "__module__", "x");
    PyObject *model = arguments == NULL ? NULL : plain_new(&PyType_Type, arguments, NULL);
    if (model != NULL && PyType_Check(model) && made_by_class_statement(all, (PyTypeObject *)model)) {
        learn(all, (PyTypeObject *)model);
    }
    discard(model);
    Py_XDECREF(arguments);
    PyErr_Clear();
}

/* Sees to it that the next class with the base of this one, which type.__new__ has made, can be made after a model. */
static void
learn_or_make_model(struct classes *all, PyTypeObject *type, bool instructive)
{
    PyTypeObject *base = type->tp_base;
    if (!wants_model(all, type) || Py_TYPE(base) != &PyType_Type || !bases_want_nothing(all, type)) {
        return;
    }
    if (!is_static(base)) {
        (void)_PyType_Lookup(base, all->strings.slots); /* gives it a version tag, if it can have one */
        if (valid_tag(base) == 0) {
            return;
        }
    }
    if (instructive && Py_TYPE(type) == &PyType_Type && made_by_class_statement(all, type)) {
        learn(all, type);
    }
    else {
        make_model(all, base);
    }
}

/* In place of type.__new__'s type_new. */
static PyObject *
class_new(PyTypeObject *metatype, PyObject *arguments, PyObject *keywords)
{
    loader_state *state = serving;
    if (state == NULL || PyInterpreterState_Get() != PyInterpreterState_Main()) {
        return plain_new(metatype, arguments, keywords);
    }
    PyObject *module = Py_NewRef(state->module); /* what is told of the class may do away with us */
    PyObject *type = make_class_if_ordinary(&state->classes, metatype, arguments, keywords);
    if (type == NULL && !PyErr_Occurred()) {
        bool instructive = is_instructive(&state->classes, metatype, arguments);
        type = plain_new(metatype, arguments, keywords);
        if (type != NULL && serving == state && PyType_Check(type)) {
            learn_or_make_model(&state->classes, (PyTypeObject *)type, instructive);
        }
    }
    Py_DECREF(module);
    return type;
}

/* ---- comparing ---- */

/* What has to be the same in two classes of one kind: all but references and the places of things. */
static void
comparable(PyObject *type, PyHeapTypeObject *out)
{
    memcpy(out, type, sizeof(*out));
    PyTypeObject *head = &out->ht_type;
    memset(head, 0, offsetof(PyTypeObject, tp_basicsize)); /* count of references, name */
    head->tp_as_async = NULL;
    head->tp_as_number = NULL;
    head->tp_as_sequence = NULL;
    head->tp_as_mapping = NULL;
    head->tp_as_buffer = NULL;
    head->tp_doc = NULL;
    head->tp_members = NULL;
    head->tp_base = NULL;
    head->tp_dict = head->tp_bases = head->tp_mro = head->tp_cache = head->tp_weaklist = NULL;
    head->tp_subclasses = NULL;
    head->tp_version_tag = 0;
    head->tp_flags &= ~CLASSES_VERSION_FLAGS;
    out->ht_name = out->ht_slots = out->ht_qualname = NULL;
    out->ht_cached_keys = NULL;
}

static bool
are_alike(PyObject *one, PyObject *other)
{
    PyHeapTypeObject parts[2];
    comparable(one, &parts[0]);
    comparable(other, &parts[1]);
    PyObject *keys = PyDict_Keys(((PyTypeObject *)one)->tp_dict), *others = PyDict_Keys(((PyTypeObject *)other)->tp_dict);
    bool alike = keys != NULL && others != NULL && memcmp(&parts[0], &parts[1], sizeof(parts[0])) == 0
                 && PyObject_RichCompareBool(keys, others, Py_EQ) == 1;
    Py_XDECREF(keys);
    Py_XDECREF(others);
    return alike;
}

/* The class of one of the arguments of type.__new__, "x", bases and a namespace, by ours and by the interpreter. */
static bool
makes_alike(struct classes *all, PyObject *base, PyObject *namespace)
{
    PyObject *arguments = base == NULL ? Py_BuildValue("(s()O)", "x", namespace) : Py_BuildValue("(s(O)O)", "x", base, namespace);
    PyObject *plain = arguments == NULL ? NULL : plain_new(&PyType_Type, arguments, NULL);
    PyObject *ours = plain == NULL ? NULL : make_class_if_ordinary(all, &PyType_Type, arguments, NULL);
    bool alike = ours != NULL && are_alike(plain, ours);
    Py_XDECREF(arguments);
    discard(plain);
    discard(ours);
    return alike;
}

/* ---- putting it in place ---- */

static bool
take_strings(struct class_strings *strings)
{
    struct {
        PyObject **to;
        const char *text;
    } all[] = {
        {&strings->module, "__module__"},
        {&strings->name, "__name__"},
        {&strings->qualname, "__qualname__"},
        {&strings->doc, "__doc__"},
        {&strings->new, "__new__"},
        {&strings->init_subclass, "__init_subclass__"},
        {&strings->class_getitem, "__class_getitem__"},
        {&strings->classcell, "__classcell__"},
        {&strings->classdictcell, "__classdictcell__"},
        {&strings->slots, "__slots__"},
        {&strings->set_name, "__set_name__"},
        {&strings->mro, "mro"},
        {&strings->hash, "__hash__"},
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        *all[i].to = PyUnicode_InternFromString(all[i].text);
        if (*all[i].to == NULL) {
            return false;
        }
    }
    return true;
}

/* A namespace with each special method that has a number (special_slots) for which number % of == rest. */
static PyObject *
special_namespace(size_t of, size_t rest)
{
    PyObject *namespace = Py_BuildValue("{ss}", "__module__", "x");
    for (size_t i = 0; namespace != NULL && i < SPECIAL_SLOTS; i++) {
        if (i % of == rest && PyDict_SetItemString(namespace, special_slots[i].name, Py_True) < 0) {
            Py_CLEAR(namespace);
        }
    }
    return namespace;
}

/* What type.__new__ describes instances with that have only one of dictionary and weak references. */
static PyGetSetDef *
learn_getset(const char *slot)
{
    PyObject *arguments = Py_BuildValue("(s(){ssss})", "x", "__module__", "x", "__slots__", slot);
    PyObject *type = arguments == NULL ? NULL : plain_new(&PyType_Type, arguments, NULL);
    PyGetSetDef *getset = type == NULL ? NULL : ((PyTypeObject *)type)->tp_getset;
    discard(type);
    Py_XDECREF(arguments);
    return getset;
}

/* The function behind object.__new__, which is that of every type of the interpreter's own. */
static PyCFunction
learn_new_wrapper(const struct classes *all)
{
    PyObject *method = _PyType_Lookup(&PyBaseObject_Type, all->strings.new);
    return method != NULL && PyCFunction_CheckExact(method) ? PyCFunction_GET_FUNCTION(method) : NULL;
}

/* A first class of the interpreter's own making, without special methods; one with all of them; and a few in both ways. */
static bool
take_models(struct classes *all)
{
    PyObject *none = Py_BuildValue("{ss}", "__module__", "x"), *every = special_namespace(1, 0);
    PyObject *third = special_namespace(3, 1);
    PyObject *slots = Py_BuildValue("{sss(sss)}", "__module__", "x", "__slots__", "b", "a", "__weakref__");
    PyObject *arguments =
        none == NULL || every == NULL || third == NULL || slots == NULL ? NULL : Py_BuildValue("(s()O)", "x", none);
    PyObject *first = arguments == NULL ? NULL : plain_new(&PyType_Type, arguments, NULL);
    Py_XSETREF(arguments, first == NULL ? NULL : Py_BuildValue("(s()O)", "x", every));
    PyObject *special = arguments == NULL ? NULL : plain_new(&PyType_Type, arguments, NULL);
    bool good = false;
    if (special != NULL) {
        all->object_bases = Py_NewRef(((PyTypeObject *)first)->tp_bases);
        all->object_model = copy_model((PyTypeObject *)first);
        all->special_model = copy_model((PyTypeObject *)special);
        all->dictionary_getset = learn_getset("__dict__");
        all->references_getset = learn_getset("__weakref__");
        all->new_wrapper = learn_new_wrapper(all);
        good = all->object_model != NULL && all->special_model != NULL && all->dictionary_getset != NULL
               && all->references_getset != NULL && all->new_wrapper != NULL && makes_alike(all, NULL, every)
               && makes_alike(all, NULL, slots) && makes_alike(all, first, none) && makes_alike(all, special, third);
    }
    discard(first);
    discard(special);
    Py_XDECREF(arguments);
    Py_XDECREF(none);
    Py_XDECREF(every);
    Py_XDECREF(third);
    Py_XDECREF(slots);
    return good;
}

/* Metaclasses that have inherited tp_new get ours, too: type.__new__ wants it to be the same (tp_new_wrapper). */
static bool
replace_in(PyTypeObject *type)
{
    if (type->tp_new == plain_new) {
        type->tp_new = class_new;
    }
    PyObject *subclasses = PyObject_CallMethod((PyObject *)&PyType_Type, "__subclasses__", "O", type);
    bool done = subclasses != NULL && PyList_Check(subclasses);
    for (Py_ssize_t i = 0; done && i < PyList_GET_SIZE(subclasses); i++) {
        PyObject *subclass = PyList_GET_ITEM(subclasses, i);
        done = PyType_Check(subclass) && replace_in((PyTypeObject *)subclass);
    }
    Py_XDECREF(subclasses);
    return done;
}

static bool
is_only_interpreter(void)
{
    return PyInterpreterState_Next(PyInterpreterState_Head()) == NULL;
}

void
classes_install(loader_state *state)
{
    struct classes *all = &state->classes;
    if (all->tried || state->session->settings.skipped & ACCELERATION_CLASSES) {
        return;
    }
    all->tried = true;
    if (plain_new != NULL || serving != NULL || !is_only_interpreter()) {
        return; /* metaclasses of other interpreters have it already, or would be left behind */
    }
    plain_new = PyType_Type.tp_new;
    fill_name_table();
    all->plain_mro = take_strings(&all->strings) ? Py_XNewRef(_PyType_Lookup(&PyType_Type, all->strings.mro)) : NULL;
    if (all->plain_mro != NULL && take_models(all) && replace_in(&PyType_Type)) {
        serving = state;
    }
    else {
        classes_clear(state);
    }
    PyErr_Clear();
}

#define FOR_EACH_CLASS_OBJECT(state, DO)                                                                               \
    DO((state)->classes.object_bases);                                                                                 \
    DO((state)->classes.plain_mro);                                                                                    \
    DO((state)->classes.strings.module);                                                                               \
    DO((state)->classes.strings.name);                                                                                 \
    DO((state)->classes.strings.qualname);                                                                             \
    DO((state)->classes.strings.doc);                                                                                  \
    DO((state)->classes.strings.new);                                                                                  \
    DO((state)->classes.strings.init_subclass);                                                                        \
    DO((state)->classes.strings.class_getitem);                                                                        \
    DO((state)->classes.strings.classcell);                                                                            \
    DO((state)->classes.strings.classdictcell);                                                                        \
    DO((state)->classes.strings.slots);                                                                                \
    DO((state)->classes.strings.set_name);                                                                             \
    DO((state)->classes.strings.mro);                                                                                  \
    DO((state)->classes.strings.hash);

void
classes_clear(loader_state *state)
{
    struct classes *all = &state->classes;
    if (serving == state) {
        serving = NULL;
    }
    FOR_EACH_CLASS_OBJECT(state, Py_CLEAR)
    free(all->object_model);
    free(all->special_model);
    all->object_model = all->special_model = NULL;
    while (all->model_count > 0) {
        free(all->models[--all->model_count].model);
    }
}

int
classes_traverse(loader_state *state, visitproc visit, void *arg)
{
    FOR_EACH_CLASS_OBJECT(state, Py_VISIT)
    return 0;
}

#else

void
classes_install(loader_state *state)
{
    (void)state;
}

void
classes_clear(loader_state *state)
{
    (void)state;
}

int
classes_traverse(loader_state *state, visitproc visit, void *arg)
{
    (void)state, (void)visit, (void)arg;
    return 0;
}

#endif
