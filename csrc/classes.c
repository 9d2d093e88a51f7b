/* Reading order: class_new, is_ordinary, make_class. Names of functions of Objects/typeobject.c are of 3.11 to 3.15. */
#include "classes.h"

#include <stdlib.h>
#include <string.h>

#include "class_slots.h"

#if CLASSES_SUPPORTED

/* Of the process, as the type `type` is; only the main interpreter's classes are made here. */
static newfunc plain_new; /* what was replaced; NULL: nothing was */
static loader_state *serving; /* NULL: all classes are type.__new__'s */

static inline PyHeapTypeObject *
heap(PyTypeObject *type)
{
    return (PyHeapTypeObject *)type;
}

/* ---- names ---- */

/* ---- is it a class that we make? ---- */

struct request {
    PyTypeObject *metatype;
    PyObject *name, *bases; /* borrowed */
    PyObject *namespace; /* owned: a copy, which nobody else has; NULL once it is the class's */
    PyTypeObject *base; /* as best_base has it */
    PyObject *declared; /* borrowed: __slots__; NULL: it has none */
    PyObject *members; /* what becomes of these, sorted; owned; NULL: no __slots__ */
    bool adds_dictionary, adds_references; /* instances get a dictionary, weak references */
    bool told; /* attributes that want to be told their name */
    bool wraps; /* methods that become static or class methods */
    struct class_specials own;
};

/* The names in __slots__, as type_new_visit_slots and type_new_copy_slots treat them, if nothing is unusual: not those
   that are mangled, or clash, or stand for a special method. */
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
            good =
                strcmp(text, "__weakref__") == 0 && request->base->tp_weaklistoffset == 0 && !request->adds_references;
            request->adds_references = true;
        }
    }
    if (good && PyList_Sort(list) == 0) {
        request->members = PyList_AsTuple(list);
    }
    Py_XDECREF(list);
    return request->members != NULL;
}

/* Does an attribute of this type want to be told its name (type_new_set_names)? */
static bool
wants_name(struct classes *all, PyTypeObject *type)
{
    struct class_type *known = &all->silent[((uintptr_t)type >> 4) % CLASS_TYPES];
    unsigned int tag = class_slots_tag(type);
    if (known->type == type && known->tag == tag && tag != 0) {
        return false;
    }
    bool wants = _PyType_Lookup(type, all->strings.set_name) != NULL;
    if (!wants) {
        *known = (struct class_type){.type = type, .tag = class_slots_tag(type)};
    }
    return wants;
}

static bool
namespace_is_ordinary(struct classes *all, struct request *request)
{
    PyObject *name, *value;
    for (Py_ssize_t at = 0; PyDict_Next(request->namespace, &at, &name, &value);) {
        if (!PyUnicode_CheckExact(name)) {
            return false;
        }
        request->told = request->told || (!PyFunction_Check(value) && wants_name(all, Py_TYPE(value)));
        int meaning = class_slots_name(all, name);
        switch (meaning) {
        case CLASS_NAME_OTHER:
            break;
        case CLASS_NAME_SLOTS:
            request->declared = value;
            break;
        case CLASS_NAME_DESCRIPTOR:
            return false;
        case CLASS_NAME_QUALNAME:
            if (!PyUnicode_CheckExact(value)) {
                return false;
            }
            break;
        case CLASS_NAME_CELL:
        case CLASS_NAME_DICTIONARY_CELL:
            /* what is in a cell may see its end, and the class, when the cell is filled */
            if (!PyCell_Check(value) || PyCell_GET(value) != NULL) {
                return false;
            }
            break;
        case CLASS_NAME_INIT_SUBCLASS:
        case CLASS_NAME_CLASS_GETITEM:
            request->wraps = true;
            break;
        default:
            if (request->own.count == CLASS_SPECIALS || class_slots_set_by_metatype(request->metatype, name)) {
                return false;
            }
            request->own.names[request->own.count++] = name;
            request->own.all_of_program &= class_slots_of_program(value);
            request->wraps = request->wraps || class_slots_is_new(meaning);
        }
    }
    return true;
}

/* What type_new_get_bases, best_base and _PyType_CalculateMetaclass check. */
static bool
is_good_base(PyTypeObject *metatype, PyObject *base)
{
    return PyType_Check(base) && PyType_IsSubtype(metatype, Py_TYPE(base))
           && ((PyTypeObject *)base)->tp_flags & Py_TPFLAGS_READY
           && ((PyTypeObject *)base)->tp_flags & Py_TPFLAGS_BASETYPE;
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
    /* what a metaclass in C does with its classes is its own */
    return (class_slots_by_class_statement(all, request->base) || Py_TYPE(request->base) == &PyType_Type)
           && add_to_instances(request);
}

/* Is it a case for us, as far as can be told before the method resolution order is known? May leave an exception, of no
   memory. */
static bool
is_ordinary(struct classes *all, struct request *request)
{
    PyTypeObject *metatype = request->metatype;
    return PyUnicode_CheckExact(request->name) && PyTuple_CheckExact(request->bases)
           && (metatype == &PyType_Type || class_slots_by_class_statement(all, metatype))
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
set_names_of_class(struct classes *all, struct request *request, PyTypeObject *type)
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
        request->told = request->told || (module != NULL && wants_name(all, Py_TYPE(module)));
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

/* type_new_descriptors and type_new_set_slots: members that __slots__ declare, and what comes with a dictionary and
   with weak references. */
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
    bool keeps = CLASSES_KEEP_NO_SLOTS || (request->members != NULL && PyTuple_GET_SIZE(request->members) != 0);
    heap(type)->ht_slots = keeps ? Py_XNewRef(request->members) : NULL;
    type->tp_basicsize = size;
    type->tp_itemsize = request->base->tp_itemsize;
    classes_add_to_instances(type, request->adds_dictionary, request->adds_references);
    type->tp_getset = request->adds_dictionary && request->adds_references ? all->object_model->ht_type.tp_getset
                      : request->adds_dictionary                           ? all->dictionary_getset
                      : request->adds_references                           ? all->references_getset
                                                                           : NULL;
    return true;
}

/* 3.15: the descriptors that all classes share. */
static bool
add_descriptors(const struct classes *all, const struct request *request, PyTypeObject *type)
{
    return !CLASSES_SHARE_DESCRIPTORS
           || ((!request->adds_dictionary
                || PyDict_SetItem(type->tp_dict, all->strings.dict, all->dictionary_descriptor) == 0)
               && (!request->adds_references
                   || PyDict_SetItem(type->tp_dict, all->strings.weakref, all->references_descriptor) == 0));
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

/* ---- what follows ---- */

/* A special method of an object's class, bound (_PyObject_LookupSpecial). New reference; NULL with an exception or
   without. */
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

/* Is object.__init_subclass__, which does nothing, what super() finds? Looked up as it does (super_getattro), without
   the cache of methods, which would number the classes. Types whose dictionary belongs to the interpreter (tp_dict is
   NULL from 3.12 on) are its own; only `object` has one among them. */
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
    if (!set_names_of_class(all, request, type) || !set_documentation(all, type)
        || (request->wraps
            && (!wrap_method(type, names->new, PyStaticMethod_New)
                || !wrap_method(type, names->init_subclass, PyClassMethod_New)
                || !wrap_method(type, names->class_getitem, PyClassMethod_New)))
        || !fill_cell(type, names->classcell, (PyObject *)type)
        || (CLASSES_DICTIONARY_CELL && !fill_cell(type, names->classdictcell, type->tp_dict))
        || !add_descriptors(all, request, type) || PyType_Ready(type) < 0) {
        Py_DECREF(type);
        return NULL;
    }
    if (!class_slots_give(all, type, &request->own)) {
        discard((PyObject *)type);
        return NULL;
    }
    if ((request->told && !tell_attributes(all, type)) || !tell_bases(all, type, keywords)) {
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
        .own.all_of_program = true,
    };
    PyObject *type =
        request.namespace != NULL && is_ordinary(all, &request) ? make_class(all, &request, keywords) : NULL;
    Py_XDECREF(request.namespace);
    Py_XDECREF(request.members);
    return type;
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
        type = plain_new(metatype, arguments, keywords);
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
    PyObject *keys = PyDict_Keys(((PyTypeObject *)one)->tp_dict),
             *others = PyDict_Keys(((PyTypeObject *)other)->tp_dict);
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
    PyObject *arguments =
        base == NULL ? Py_BuildValue("(s()O)", "x", namespace) : Py_BuildValue("(s(O)O)", "x", base, namespace);
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
        {&strings->dict, "__dict__"},
        {&strings->weakref, "__weakref__"},
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        *all[i].to = PyUnicode_InternFromString(all[i].text);
        if (*all[i].to == NULL) {
            return false;
        }
    }
    return true;
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

/* What comes with a dictionary and with weak references: descriptors, or what PyType_Ready makes them of. */
static bool
learn_descriptors(struct classes *all, PyTypeObject *type)
{
    if (CLASSES_SHARE_DESCRIPTORS) {
        all->dictionary_descriptor = Py_XNewRef(PyDict_GetItemWithError(type->tp_dict, all->strings.dict));
        all->references_descriptor = Py_XNewRef(PyDict_GetItemWithError(type->tp_dict, all->strings.weakref));
        return all->dictionary_descriptor != NULL && all->references_descriptor != NULL && type->tp_getset == NULL
               && PyDescr_TYPE(all->dictionary_descriptor) == &PyBaseObject_Type
               && PyDescr_TYPE(all->references_descriptor) == &PyBaseObject_Type;
    }
    all->dictionary_getset = learn_getset("__dict__");
    all->references_getset = learn_getset("__weakref__");
    return all->dictionary_getset != NULL && all->references_getset != NULL;
}

/* The function behind object.__new__, which is that of every type of the interpreter's own. */
static PyCFunction
learn_new_wrapper(const struct classes *all)
{
    PyObject *method = _PyType_Lookup(&PyBaseObject_Type, all->strings.new);
    return method != NULL && PyCFunction_CheckExact(method) ? PyCFunction_GET_FUNCTION(method) : NULL;
}

static PyHeapTypeObject *
copy_model(PyObject *type)
{
    PyHeapTypeObject *copy = malloc(sizeof(*copy));
    if (copy != NULL) {
        memcpy(copy, type, sizeof(*copy));
    }
    return copy;
}

/* A first class of the interpreter's own making, without special methods; one with all of them; and a few in both
   ways. */
static bool
take_models(struct classes *all)
{
    PyObject *none = Py_BuildValue("{ss}", "__module__", "x"), *every = class_slots_every_name(1, 0);
    PyObject *third = class_slots_every_name(3, 1);
    PyObject *slots = Py_BuildValue("{sss(sss)}", "__module__", "x", "__slots__", "b", "a", "__weakref__");
    PyObject *arguments =
        none == NULL || every == NULL || third == NULL || slots == NULL ? NULL : Py_BuildValue("(s()O)", "x", none);
    PyObject *first = arguments == NULL ? NULL : plain_new(&PyType_Type, arguments, NULL);
    Py_XSETREF(arguments, first == NULL ? NULL : Py_BuildValue("(s()O)", "x", every));
    PyObject *special = arguments == NULL ? NULL : plain_new(&PyType_Type, arguments, NULL);
    bool good = false;
    if (special != NULL) {
        all->object_bases = Py_NewRef(((PyTypeObject *)first)->tp_bases);
        all->object_model = copy_model(first);
        all->special_model = copy_model(special);
        all->new_wrapper = learn_new_wrapper(all);
        good = all->object_model != NULL && all->special_model != NULL && all->new_wrapper != NULL
               && learn_descriptors(all, (PyTypeObject *)first) && makes_alike(all, NULL, every)
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
    all->plain_mro = class_slots_prepare(all) && take_strings(&all->strings)
                         ? Py_XNewRef(_PyType_Lookup(&PyType_Type, all->strings.mro))
                         : NULL;
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
    DO((state)->classes.dictionary_descriptor);                                                                        \
    DO((state)->classes.references_descriptor);                                                                        \
    DO((state)->classes.strings.dict);                                                                                 \
    DO((state)->classes.strings.weakref);                                                                              \
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
    class_slots_clear(all);
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
