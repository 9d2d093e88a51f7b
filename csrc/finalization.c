/* Reading order: finalization_shorten, examine, judge_type. */
#include "finalization.h"

#include "native_layout.h"

#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <dlfcn.h>
#include <link.h>
#endif
#include <unistd.h>

#include "rebuilder.h"

#if NATIVE_SUPPORTED && NATIVE_KNOWS_FINALIZATION && defined(__linux__) && !defined(Py_STATS)

/* ---- whose code is it? ---- */

#define MOST_SEGMENTS 256

struct segment {
    uintptr_t start, bytes;
};

struct segments {
    int count;
    struct segment each[MOST_SEGMENTS];
};

/* Is the library in .../python3.x/lib-dynload/, where CPython installs its own extension modules? */
static bool
is_in_dynload(const char *path)
{
    static const char folder[] = "/lib-dynload";
    const char *slash = strrchr(path, '/');
    size_t bytes = strlen(folder);
    return slash != NULL && (size_t)(slash - path) >= bytes && strncmp(slash - bytes, folder, bytes) == 0;
}

static bool
has_address(const struct dl_phdr_info *object, uintptr_t address)
{
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        if (segment->p_type == PT_LOAD && address - (object->dlpi_addr + segment->p_vaddr) < segment->p_memsz) {
            return true;
        }
    }
    return false;
}

static int
note_known_code(struct dl_phdr_info *object, size_t size, void *argument)
{
    struct segments *known = argument;
    (void)size;
    if (!is_in_dynload(object->dlpi_name) && !has_address(object, (uintptr_t)&PyType_Type)
        && !has_address(object, (uintptr_t)&finalization_shorten)) {
        return 0;
    }
    for (int i = 0; i < object->dlpi_phnum && known->count < MOST_SEGMENTS; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        if (segment->p_type == PT_LOAD && segment->p_flags & PF_X) {
            known->each[known->count++] =
                (struct segment){object->dlpi_addr + segment->p_vaddr, segment->p_memsz};
        }
    }
    return 0;
}

static bool
is_known_code(const struct segments *known, uintptr_t function)
{
    for (int i = 0; i < known->count; i++) {
        if (function - known->each[i].start < known->each[i].bytes) {
            return true;
        }
    }
    return false;
}

/* ---- types ---- */

/* What can be seen of the end of an object of a type. */
enum end {
    END_VISIBLE, /* something, or we can't tell */
    END_SILENT, /* nothing: it frees memory and gives references back */
    /* it depends on the object: */
    END_OF_CLASS,
    END_OF_MODULE,
    END_OF_REFERENCE,
    END_OF_CAPSULE,
    END_OF_GENERATOR,
    END_OF_STREAM,
    END_OF_BUFFER,
    END_OF_CODE,
    END_OF_LOCALS,
};

/* What an object has to be looked at for that another one refers to. */
enum look {
    LOOK_CLOSELY,
    LOOK_NOT, /* nothing: its end is silent, and it refers to nothing */
    LOOK_IF_UNTRACKED, /* unless the collector knows it, and we come to it anyway */
};

struct judged_type {
    PyTypeObject *type; /* NULL: empty */
    unsigned char end, look; /* as above */
};

#define RECENT_TYPES 256 /* a power of two */

struct scan {
    loader_state *state;
    struct segments known; /* code of CPython, and ours */
    struct segments arena; /* where objects are that were decoded, as far as there is room */
    struct segment last_chunk; /* one of these */
    destructor plain_dealloc; /* of classes that class statements make: Objects/typeobject.c, subtype_dealloc */
    inquiry plain_clear; /* of these: subtype_clear */
    const char *library; /* the standard library's folder; NULL: not known */

    struct judged_type recent[RECENT_TYPES]; /* each where its address leads; before: */
    struct judged_type *types; /* hash table */
    size_t type_slots, type_count; /* slots: a power of two */
    PyObject *module_name; /* of the function that was looked at last; it is a str */

    PyObject **waiting; /* objects that the collector doesn't know, to be looked at */
    size_t waiting_count, waiting_slots;
    size_t budget; /* how many of these may still come: tuples that share tuples could be endless */
    bool met_module; /* our own, so these are the collector's lists */
    bool may_be_garbage; /* what could be seen may not be there any more after a collection */
};

/* Types of CPython, by tp_name, whose tp_dealloc (3.11 to 3.15) frees memory and gives references back, and no more.
   The order is strcmp's. */
static const char *const silent_types[] = {
    "EncodingMap", "NoDefaultType", "NoneType", "NotImplementedType", "Token.MISSING", "_abc._abc_data",
    "_collections._tuplegetter", "_contextvars.Context", "_contextvars.ContextVar", "_contextvars.Token",
    "_csv.Dialect", "_io.BytesIO", "_io.IncrementalNewlineDecoder", "_io.StringIO", "_json.Encoder",
    "_json.Scanner", "_queue.SimpleQueue", "_random.Random", "_struct.Struct", "_thread.RLock",
    "_thread._ThreadHandle", "_thread._local", "_thread.lock", "array.array", "ast.AST", "bool",
    "builtin_function_or_method", "builtin_method", "bytearray", "bytes", "callable_iterator", "cell",
    "classmethod", "classmethod_descriptor", "code", "collections.OrderedDict", "collections._tuplegetter",
    "collections.defaultdict", "collections.deque", "complex", "datetime.date", "datetime.datetime",
    "datetime.time", "datetime.timedelta", "datetime.timezone", "datetime.tzinfo", "decimal.Context",
    "decimal.Decimal", "decimal.SignalDictMixin", "dict", "dict_itemiterator", "dict_items", "dict_keyiterator",
    "dict_keys", "dict_valueiterator", "dict_values", "ellipsis", "enumerate", "filter", "float", "frame",
    "frozendict", "frozenset", "function", "functools.KeyWrapper", "functools._PlaceholderType",
    "functools._lru_cache_wrapper", "functools._lru_list_elem", "functools.partial", "getset_descriptor", "hamt",
    "hamt_array_node", "hamt_bitmap_node", "hamt_collision_node", "instancemethod", "int", "iterator",
    "itertools.chain", "itertools.count", "itertools.cycle", "itertools.islice", "itertools.product",
    "itertools.repeat", "itertools.starmap", "lazy_import", "list", "list_iterator", "map", "mappingproxy",
    "member_descriptor", "method", "method-wrapper", "method_descriptor", "moduledef", "object",
    "operator.attrgetter", "operator.itemgetter", "operator.methodcaller", "property", "range", "range_iterator",
    "re.Match", "re.Pattern", "reversed", "sentinel", "set", "set_iterator", "slice", "staticmethod",
    "stderrprinter", "str", "str_iterator", "super", "traceback", "tuple", "tuple_iterator", "types.GenericAlias",
    "types.SimpleNamespace", "types.UnionType", "typing.Generic", "typing.ParamSpec", "typing.ParamSpecArgs",
    "typing.ParamSpecKwargs", "typing.TypeAliasType", "typing.TypeVar", "typing.TypeVarTuple", "typing.Union",
    "typing._idfunc", "unicodedata.UCD", "wrapper_descriptor", "zip",
};

static int
compare_names(const void *name, const void *entry)
{
    return strcmp(name, *(const char *const *)entry);
}

static bool
is_silent_name(const char *name)
{
    return bsearch(
               name, silent_types, sizeof(silent_types) / sizeof(silent_types[0]), sizeof(silent_types[0]),
               compare_names)
           != NULL;
}

/* Of ctypes: types and functions as they are before anything calls back. */
static bool
is_name_of_ctypes(const char *name)
{
    static const char *const names[] = {
        "_CData", "_SimpleCData", "_Pointer", "Array", "Structure", "Union", "CFuncPtr", "PyCFuncPtr", "CField",
        "CType_Type", "PyCArrayType", "PyCFuncPtrType", "PyCPointerType", "PyCSimpleType", "PyCStructType", "UnionType",
    };
    if (strncmp(name, "_ctypes.", 8) != 0) {
        return strcmp(name, "StgDict") == 0;
    }
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name + 8, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* Is what frees objects of a type, and takes them out of cycles, CPython's? */
static bool
is_freed_by_cpython(const struct scan *scan, PyTypeObject *type)
{
    return type->tp_del == NULL && is_known_code(&scan->known, (uintptr_t)type->tp_dealloc)
           && (type->tp_free == NULL || type->tp_free == PyObject_GC_Del || type->tp_free == PyObject_Free
               || is_known_code(&scan->known, (uintptr_t)type->tp_free))
           && (type->tp_clear == NULL || type->tp_clear == scan->plain_clear
               || is_known_code(&scan->known, (uintptr_t)type->tp_clear));
}

/* The end of objects of a type that has a tp_dealloc of its own. `exact`: of these, rather than of a subclass's. */
static enum end
judge_static(const struct scan *scan, PyTypeObject *type, bool exact)
{
    if (!is_freed_by_cpython(scan, type)) {
        return END_VISIBLE;
    }
    if (type == &PyType_Type) {
        return END_OF_CLASS;
    }
    if (type == &PyModule_Type) {
        return END_OF_MODULE;
    }
    if (type == &_PyWeakref_RefType || type == &_PyWeakref_ProxyType || type == &_PyWeakref_CallableProxyType) {
        return END_OF_REFERENCE;
    }
    if (type->tp_finalize != NULL) {
        /* Of io's types, StringIO and BytesIO have inherited theirs and don't call it (stringio_dealloc,
           bytesio_dealloc); a collection calls it, and it closes them (buffer_is_silent). */
        if (!exact) {
            return END_VISIBLE;
        }
        if (type == &PyGen_Type || type == &PyCoro_Type) {
            return END_OF_GENERATOR;
        }
        if (strcmp(type->tp_name, "_io.StringIO") == 0 || strcmp(type->tp_name, "_io.BytesIO") == 0) {
            return END_OF_BUFFER;
        }
        return strncmp(type->tp_name, "_io.", 4) == 0 ? END_OF_STREAM : END_VISIBLE;
    }
    if (type == &PyCapsule_Type) {
        return END_OF_CAPSULE;
    }
    if (type == &PyCode_Type) {
        return END_OF_CODE;
    }
    if (strcmp(type->tp_name, "_thread._localdummy") == 0) {
        return END_OF_LOCALS;
    }
    /* exceptions, and struct sequences */
    if (PyType_FastSubclass(type, Py_TPFLAGS_BASE_EXC_SUBCLASS)
        || PyType_FastSubclass(type, Py_TPFLAGS_TUPLE_SUBCLASS)) {
        return END_SILENT;
    }
    if ((PyObject *)type == scan->state->finder_type || type == scan->state->stand_in_type) {
        return END_SILENT; /* finder_dealloc calls us no second time */
    }
    return is_silent_name(type->tp_name) || is_name_of_ctypes(type->tp_name) ? END_SILENT : END_VISIBLE;
}

/* subtype_dealloc runs __del__, frees what class statements add, and goes on with the first base that isn't its own. */
static enum end
judge_type(const struct scan *scan, PyTypeObject *type)
{
    PyTypeObject *base = type;
    while (base != NULL && base->tp_dealloc == scan->plain_dealloc) {
        if (base->tp_finalize != NULL || !is_freed_by_cpython(scan, base)) {
            return END_VISIBLE;
        }
        base = base->tp_base;
    }
    return base == NULL ? END_VISIBLE : judge_static(scan, base, base == type);
}

static bool
grow_types(struct scan *scan)
{
    size_t slots = scan->type_slots == 0 ? 1024 : scan->type_slots * 2;
    struct judged_type *types = calloc(slots, sizeof(*types));
    if (types == NULL) {
        return false;
    }
    for (size_t i = 0; i < scan->type_slots; i++) {
        if (scan->types[i].type != NULL) {
            size_t slot = ((uintptr_t)scan->types[i].type >> 4) * 0x9E3779B97F4A7C15u >> 20 & (slots - 1);
            while (types[slot].type != NULL) {
                slot = (slot + 1) & (slots - 1);
            }
            types[slot] = scan->types[i];
        }
    }
    free(scan->types);
    scan->types = types;
    scan->type_slots = slots;
    return true;
}

static struct judged_type
find_or_judge(struct scan *scan, PyTypeObject *type)
{
    size_t slot = ((uintptr_t)type >> 4) * 0x9E3779B97F4A7C15u >> 20 & (scan->type_slots - 1);
    for (; scan->types[slot].type != NULL; slot = (slot + 1) & (scan->type_slots - 1)) {
        if (scan->types[slot].type == type) {
            return scan->types[slot];
        }
    }
    struct judged_type judged = {.type = type, .end = judge_type(scan, type), .look = LOOK_CLOSELY};
    if (PyType_HasFeature(type, Py_TPFLAGS_HAVE_GC)) {
        judged.look = type->tp_is_gc == NULL ? LOOK_IF_UNTRACKED : LOOK_CLOSELY;
    }
    else if (judged.end == END_SILENT) {
        judged.look = LOOK_NOT;
    }
    scan->types[slot] = judged;
    if (++scan->type_count * 2 > scan->type_slots && !grow_types(scan)) {
        judged.end = END_VISIBLE;
        judged.look = LOOK_CLOSELY;
    }
    return judged;
}

static inline struct judged_type
judged(struct scan *scan, PyTypeObject *type)
{
    struct judged_type *recent = &scan->recent[((uintptr_t)type >> 4 ^ (uintptr_t)type >> 11) & (RECENT_TYPES - 1)];
    if (recent->type != type) {
        *recent = find_or_judge(scan, type);
    }
    return *recent;
}

/* ---- objects of which it depends ---- */

/* No object of a class may be hidden from the collector and have an end that can be seen: one behind a type's own
   pointers would not be found. */
static bool
class_is_silent(const struct scan *scan, PyTypeObject *type)
{
    if (PyType_HasFeature(type, Py_TPFLAGS_HAVE_GC)) {
        return true;
    }
    if (type->tp_dealloc == scan->plain_dealloc) {
        return type->tp_finalize == NULL && type->tp_del == NULL;
    }
    return is_freed_by_cpython(scan, type);
}

/* Python/pylifecycle.c, finalize_modules, and Objects/moduleobject.c, _PyModule_ClearDict, set what names stand for to
   None: names of a class of the program's, or next to any, would be asked for their hash, or whether they are equal. */
static bool
has_plain_names(PyObject *dictionary)
{
    struct native_values values;
    if (!PyDict_CheckExact(dictionary)) {
        return false;
    }
    native_dictionary_values(dictionary, &values);
    for (Py_ssize_t i = 0; values.keys != NULL && i < values.count; i++) {
        if (values.first[i * values.stride] != NULL && !PyUnicode_CheckExact(values.keys[i * values.stride])) {
            return false;
        }
    }
    return true;
}

/* Objects/moduleobject.c, module_dealloc and module_clear. Those of CPython's modules free their state and no more. */
static bool
module_is_silent(struct scan *scan, PyObject *module)
{
    PyObject *dictionary = PyModule_GetDict(module);
    if (dictionary != NULL && !has_plain_names(dictionary)) {
        return false;
    }
    if (module == scan->state->module) {
        scan->met_module = true;
        return true;
    }
    PyModuleDef *definition = PyModule_GetDef(module);
    return definition == NULL
           || ((definition->m_free == NULL || is_known_code(&scan->known, (uintptr_t)definition->m_free))
               && (definition->m_clear == NULL || is_known_code(&scan->known, (uintptr_t)definition->m_clear)));
}

/* CPython's destructors of capsules (_curses, _ctypes, _datetime, _socket, pyexpat, unicodedata) free memory and no
   more. */
static bool
capsule_is_silent(const struct scan *scan, PyObject *capsule)
{
    PyCapsule_Destructor end = PyCapsule_GetDestructor(capsule);
    PyErr_Clear();
    return end == NULL || is_known_code(&scan->known, (uintptr_t)end);
}

/* StringIO and BytesIO: closing them frees memory, unless an attribute of the object's own stands in for a method
   (Modules/_io/iobase.c, iobase_finalize). */
static bool
buffer_is_silent(PyObject *buffer)
{
    Py_ssize_t offset = Py_TYPE(buffer)->tp_dictoffset;
    PyObject *attributes = offset > 0 ? *(PyObject **)((char *)buffer + offset) : NULL;
    return offset > 0 && (attributes == NULL || (PyDict_CheckExact(attributes) && PyDict_GET_SIZE(attributes) == 0));
}

/* The standard streams were flushed a moment before. If nothing was written since, and what is below isn't theirs to
   close, their end does nothing. */
static bool
stream_is_silent(struct scan *scan, PyObject *stream)
{
    while (stream != NULL) {
        PyObject *inner;
        if (judged(scan, Py_TYPE(stream)).end != END_OF_STREAM || !native_stream_is_idle(stream, &inner)) {
            return false;
        }
        stream = inner;
    }
    return true;
}

static const char *
ascii(PyObject *text)
{
    return text != NULL && PyUnicode_CheckExact(text) && PyUnicode_IS_COMPACT_ASCII(text) ? PyUnicode_DATA(text) : NULL;
}

/* Is it a function that the standard library's file has under that qualified name? */
static bool
is_library_function(const struct scan *scan, PyObject *function, const char *file, const char *name)
{
    if (scan->library == NULL || !PyFunction_Check(function)) {
        return false;
    }
    PyCodeObject *code = (PyCodeObject *)PyFunction_GET_CODE(function);
    const char *path = ascii(code->co_filename), *qualified = ascii(code->co_qualname);
    size_t bytes = strlen(scan->library);
    return path != NULL && qualified != NULL && strncmp(path, scan->library, bytes) == 0
           && strcmp(path + bytes, file) == 0 && strcmp(qualified, name) == 0;
}

/* Is an attribute of a weak container an object of exactly this type, and would reading it run nothing else? */
static bool
has_plain_attribute(PyObject *container, const char *name, PyTypeObject *type)
{
    PyObject *key = PyUnicode_FromString(name);
    bool plain = false;
    if (key != NULL && Py_TYPE(container)->tp_getattro == PyObject_GenericGetAttr
        && _PyType_Lookup(Py_TYPE(container), key) == NULL) {
        PyObject *value = PyObject_GenericGetAttr(container, key);
        plain = value != NULL && Py_IS_TYPE(value, type);
        Py_XDECREF(value);
    }
    Py_XDECREF(key);
    PyErr_Clear();
    return plain;
}

/* WeakSet._remove and the like have as their default argument a reference to the container from which they take the
   dead reference. */
static bool
leaves_container(PyObject *callback, PyTypeObject *data)
{
    PyObject *defaults = ((PyFunctionObject *)callback)->func_defaults;
    PyObject *reference = defaults != NULL && PyTuple_CheckExact(defaults) && PyTuple_GET_SIZE(defaults) > 0
                              ? PyTuple_GET_ITEM(defaults, 0)
                              : NULL;
    if (reference == NULL || !Py_IS_TYPE(reference, &_PyWeakref_RefType)) {
        return false;
    }
    PyObject *container = ((PyWeakReference *)reference)->wr_object;
    return container == Py_None
           || (has_plain_attribute(container, "data", data)
               && (!NATIVE_CONTAINERS_WAIT
                   || (has_plain_attribute(container, "_iterating", &PySet_Type)
                       && has_plain_attribute(container, "_pending_removals", &PyList_Type))));
}

/* Would looking a key up run nothing of the program's? */
static bool
is_plain_key(PyObject *key)
{
    if (PyTuple_CheckExact(key)) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(key); i++) {
            PyObject *item = PyTuple_GET_ITEM(key, i);
            if (PyTuple_CheckExact(item) || !is_plain_key(item)) {
                return false;
            }
        }
        return true;
    }
    return PyUnicode_CheckExact(key) || PyLong_CheckExact(key) || PyFunction_Check(key);
}

/* WeakValueDictionary looks its entry up again, by a key that could have a __hash__ of its own. */
static bool
has_plain_key(PyObject *reference)
{
    PyObject *key_name = PyUnicode_FromString("key");
    PyObject *member = key_name == NULL ? NULL : _PyType_Lookup(Py_TYPE(reference), key_name);
    bool plain = false;
    if (member != NULL && Py_IS_TYPE(member, &PyMemberDescr_Type)) {
        PyObject *key = PyObject_GenericGetAttr(reference, key_name);
        plain = key != NULL && is_plain_key(key);
        Py_XDECREF(key);
    }
    Py_XDECREF(key_name);
    PyErr_Clear();
    return plain;
}

/* Until 3.12 logging takes and gives back its lock by functions. */
static bool
has_plain_function(const struct scan *scan, PyObject *globals, const char *name)
{
    PyObject *function = PyDict_GetItemString(globals, name);
    return function == NULL || is_library_function(scan, function, "/logging/__init__.py", name);
}

/* logging._removeHandlerRef takes it out of the list of handlers, under logging's lock; if the module was taken down
   already, it does nothing. */
static bool
leaves_handlers(const struct scan *scan, PyObject *callback)
{
    PyObject *globals = PyFunction_GET_GLOBALS(callback);
    if (!has_plain_function(scan, globals, "_acquireLock") || !has_plain_function(scan, globals, "_releaseLock")) {
        return false;
    }
    PyObject *handlers = PyDict_GetItemString(globals, "_handlerList");
    PyObject *lock = PyDict_GetItemString(globals, "_lock");
    if (handlers == Py_None) {
        return true;
    }
    if (handlers == NULL || !PyList_CheckExact(handlers) || lock == NULL
        || strcmp(Py_TYPE(lock)->tp_name, "_thread.RLock") != 0) {
        return false;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(handlers); i++) {
        if (!Py_IS_TYPE(PyList_GET_ITEM(handlers, i), &_PyWeakref_RefType)) {
            return false;
        }
    }
    return true;
}

/* Modules/_abc.c and Modules/_threadmodule.c: C functions that take a dead reference out of a set or dictionary. */
static bool
is_library_callback(const struct scan *scan, PyObject *callback)
{
    static const char *const names[] = {"_destroy", "_localdummy_destroyed", "clear_locals"};
    PyMethodDef *method = ((PyCFunctionObject *)callback)->m_ml;
    bool named = false;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        named |= strcmp(method->ml_name, names[i]) == 0;
    }
    return named && is_known_code(&scan->known, (uintptr_t)method->ml_meth);
}

/* A method of the program's that does no more than to set an attribute of its object to a constant, as a sign that
   something died (django.dispatch). */
static bool
only_leaves_mark(PyObject *callback)
{
    PyObject *object = PyMethod_GET_SELF(callback), *function = PyMethod_GET_FUNCTION(callback);
    if (!PyFunction_Check(function)) {
        return false;
    }
    PyObject *name = native_code_that_marks(PyFunction_GET_CODE(function));
    return name != NULL && Py_TYPE(object)->tp_setattro == PyObject_GenericSetAttr
           && PyType_HasFeature(Py_TYPE(object), Py_TPFLAGS_HEAPTYPE) && Py_TYPE(object)->tp_dictoffset != 0
           && _PyType_Lookup(Py_TYPE(object), name) == NULL;
}

static bool
reference_is_silent(const struct scan *scan, PyObject *object)
{
    PyWeakReference *reference = (PyWeakReference *)object;
    PyObject *callback = reference->wr_callback;
    /* Every class but object is known to its base by a weak reference, also one that nothing else leads to. */
    if (PyType_Check(reference->wr_object) && !class_is_silent(scan, (PyTypeObject *)reference->wr_object)) {
        return false;
    }
    if (callback == NULL || reference->wr_object == Py_None || object == scan->state->hook_reference) {
        return true;
    }
    if (PyMethod_Check(callback)) {
        return only_leaves_mark(callback);
    }
    if (PyCFunction_CheckExact(callback)) {
        return is_library_callback(scan, callback);
    }
    if (is_library_function(scan, callback, "/_weakrefset.py", "WeakSet.__init__.<locals>._remove")) {
        return leaves_container(callback, &PySet_Type);
    }
    if (is_library_function(scan, callback, "/weakref.py", "WeakKeyDictionary.__init__.<locals>.remove")) {
        return leaves_container(callback, &PyDict_Type);
    }
    if (is_library_function(scan, callback, "/weakref.py", "WeakValueDictionary.__init__.<locals>.remove")) {
        return leaves_container(callback, &PyDict_Type) && has_plain_key(object);
    }
    return is_library_function(scan, callback, "/logging/__init__.py", "_removeHandlerRef")
           && leaves_handlers(scan, callback);
}

/* ---- the scan ---- */

/* Notes an object that the collector doesn't know, to be looked at later. False: too many, or no memory. */
static bool
wait_for(struct scan *scan, PyObject *object)
{
    if (scan->budget == 0) {
        return false;
    }
    scan->budget--;
    if (scan->waiting_count == scan->waiting_slots) {
        size_t slots = scan->waiting_slots == 0 ? 1024 : scan->waiting_slots * 2;
        PyObject **waiting = realloc(scan->waiting, slots * sizeof(*waiting));
        if (waiting == NULL) {
            return false;
        }
        scan->waiting = waiting;
        scan->waiting_slots = slots;
    }
    scan->waiting[scan->waiting_count++] = object;
    return true;
}

static inline int look_at(struct scan *scan, PyObject *object);

/* Looks at an object that another one refers to. Nonzero: its end could be seen. */
static int
visit_closely(struct scan *scan, PyObject *object, enum end end)
{
    PyTypeObject *type = Py_TYPE(object);
    if (PyType_HasFeature(type, Py_TPFLAGS_HAVE_GC) && (type->tp_is_gc == NULL || type->tp_is_gc(object))) {
        return native_is_tracked(object) || wait_for(scan, object) ? 0 : 1;
    }
    switch (end) {
    case END_SILENT:
        return 0;
    case END_OF_CLASS:
        return class_is_silent(scan, (PyTypeObject *)object) ? 0 : 1;
    case END_OF_CODE:
        return native_is_immortal(object) || wait_for(scan, object) ? 0 : 1;
    case END_OF_CAPSULE:
        return capsule_is_silent(scan, object) ? 0 : 1;
    case END_OF_LOCALS: {
        PyObject *values = native_thread_locals(object);
        return values != NULL && look_at(scan, values) == 0 ? 0 : 1;
    }
    default:
        return 1;
    }
}

static inline int
look_at(struct scan *scan, PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    if (type == &PyUnicode_Type) {
        return 0;
    }
    struct judged_type of_type = judged(scan, type);
    if (of_type.look == LOOK_NOT || (of_type.look == LOOK_IF_UNTRACKED && native_is_tracked(object))) {
        return 0;
    }
    return visit_closely(scan, object, of_type.end);
}

/* tp_traverse calls this for everything that an object refers to. Nonzero ends it. */
static int
visit(PyObject *object, void *argument)
{
    return look_at(argument, object);
}

static inline int
look_at_any(struct scan *scan, PyObject *object)
{
    return object == NULL ? 0 : look_at(scan, object);
}

static inline int
look_at_array(struct scan *scan, PyObject **items, Py_ssize_t count)
{
    int result = 0;
    for (Py_ssize_t i = 0; i < count && result == 0; i++) {
        result = look_at_any(scan, items[i]);
    }
    return result;
}

/* As Objects/dictobject.c, dict_traverse: keys are str if they aren't given. */
static int
look_at_dictionary(struct scan *scan, PyObject *dictionary)
{
    struct native_values values;
    Py_ssize_t met = 0;
    native_dictionary_values(dictionary, &values);
    for (Py_ssize_t i = 0; i < values.count; i++) {
        PyObject *value = values.first[i * values.stride];
        if (i + 4 < values.count) {
            __builtin_prefetch(values.first[(i + 4) * values.stride]);
        }
        if (value != NULL) {
            met++;
            if (look_at(scan, value) != 0
                || (values.keys != NULL && look_at(scan, values.keys[i * values.stride]) != 0)) {
                return 1;
            }
        }
    }
    return met == PyDict_GET_SIZE(dictionary) ? 0 : 1; /* else dictionaries aren't laid out as we think */
}

static void
note_arena(struct scan *scan)
{
    const struct native_chunk *chunk = scan->state->native.context.arena.newest;
    for (; chunk != NULL && scan->arena.count < MOST_SEGMENTS; chunk = chunk->previous) {
        scan->arena.each[scan->arena.count++] = (struct segment){(uintptr_t)chunk, chunk->bytes};
    }
}

static inline bool
is_in_last_chunk(const struct scan *scan, uintptr_t address)
{
    return address - scan->last_chunk.start < scan->last_chunk.bytes;
}

/* Is an object one of those that were decoded? Told by its address: most functions' code isn't in the processor's
   cache. */
static inline bool
is_in_arena(struct scan *scan, uintptr_t address)
{
    if (is_in_last_chunk(scan, address)) {
        return true;
    }
    for (int i = 0; i < scan->arena.count; i++) {
        if (address - scan->arena.each[i].start < scan->arena.each[i].bytes) {
            scan->last_chunk = scan->arena.each[i];
            return true;
        }
    }
    return false;
}

/* As Objects/funcobject.c, func_traverse, but for __name__ and __qualname__, which are str, of whatever class. */
static int
look_at_function(struct scan *scan, PyObject *object)
{
    PyFunctionObject *function = (PyFunctionObject *)object;
    PyObject *code = function->func_code;
    if (!is_in_arena(scan, (uintptr_t)code) && !native_is_immortal(code) && !wait_for(scan, code)) {
        return 1;
    }
    if (function->func_module != scan->module_name) {
        if (look_at_any(scan, function->func_module) != 0) {
            return 1;
        }
        scan->module_name =
            function->func_module != NULL && PyUnicode_CheckExact(function->func_module) ? function->func_module : NULL;
    }
    PyObject *doc = function->func_doc;
    if (doc != NULL && !is_in_last_chunk(scan, (uintptr_t)doc) && look_at(scan, doc) != 0) {
        return 1;
    }
    return look_at_any(scan, function->func_globals) != 0 || look_at_any(scan, function->func_builtins) != 0
           || look_at_any(scan, function->func_defaults) != 0
           || look_at_any(scan, function->func_kwdefaults) != 0 || look_at_any(scan, function->func_closure) != 0
           || look_at_any(scan, function->func_dict) != 0 || look_at_any(scan, function->func_annotations) != 0
           || look_at_any(scan, native_type_parameters(function)) != 0
           || look_at_any(scan, native_annotate(function)) != 0;
}

/* Everything that an object refers to: as its tp_traverse would tell, without a call for each, where there are many
   such objects. */
static int
look_behind(struct scan *scan, PyObject *object, PyTypeObject *type)
{
    if (type == &PyFunction_Type) {
        return look_at_function(scan, object);
    }
    if (type == &PyTuple_Type) {
        return look_at_array(scan, &PyTuple_GET_ITEM(object, 0), PyTuple_GET_SIZE(object));
    }
    if (type == &PyDict_Type) {
        return look_at_dictionary(scan, object);
    }
    if (type == &PyList_Type) {
        return look_at_array(scan, ((PyListObject *)object)->ob_item, PyList_GET_SIZE(object));
    }
    if (type == &PyCell_Type) {
        return look_at_any(scan, PyCell_GET(object));
    }
    return type->tp_traverse(object, visit, scan);
}

/* Looks at one object, and at what it refers to. False: its end could be seen. */
static inline bool
examine(PyObject *object, void *argument)
{
    struct scan *scan = argument;
    PyTypeObject *type = Py_TYPE(object);
    bool silent;
    switch (judged(scan, type).end) {
    case END_SILENT:
        silent = true;
        break;
    case END_OF_CLASS:
        silent = class_is_silent(scan, (PyTypeObject *)object);
        break;
    case END_OF_MODULE:
        silent = module_is_silent(scan, object);
        break;
    case END_OF_REFERENCE:
        silent = reference_is_silent(scan, object);
        break;
    case END_OF_CAPSULE:
        silent = capsule_is_silent(scan, object);
        break;
    case END_OF_GENERATOR:
        silent = native_generator_is_finished(object);
        break;
    case END_OF_STREAM:
        silent = stream_is_silent(scan, object);
        break;
    case END_OF_BUFFER:
        silent = buffer_is_silent(object);
        break;
    case END_OF_CODE:
        return look_at(scan, native_code_constants(object)) == 0;
    default:
        return false;
    }
    scan->may_be_garbage = !silent; /* an open file or a suspended generator, say */
    return silent && look_behind(scan, object, type) == 0;
}

static bool
examine_waiting(struct scan *scan)
{
    while (scan->waiting_count > 0) {
        if (!examine(scan->waiting[--scan->waiting_count], scan)) {
            return false;
        }
    }
    return true;
}

static bool
examine_tracked(PyObject *object, void *argument)
{
    struct scan *scan = argument;
    return examine(object, scan) && (scan->waiting_count == 0 || examine_waiting(scan));
}

static bool
is_none(loader_state *state, PyObject *name)
{
    return system_object(state, name) == Py_None;
}

/* Is finalize_modules at work, and has it begun with `sys`? */
static bool
modules_are_going(loader_state *state)
{
    return is_none(state, state->strings.meta_path) && is_none(state, state->strings.path);
}

/* Is nothing of what is left to do about to be seen? */
static bool
may_shorten(loader_state *state)
{
    const struct session *session = state->session;
    return state->end == END_ARMED && session != NULL && state->preparation == PREPARATION_DONE
           && state->native.progress == NATIVE_OPEN && !PyErr_Occurred()
           && native_end_is_ordinary(&state->native.context.layout) && !import_is_observed(state)
           && state->observers == OBSERVERS_KNOWN;
}

/* A library in front of the system's (LD_PRELOAD, which settings.c asks for, too) could count what is freed. An
   executable that isn't relocatable stands in for what it takes the address of; not for the second of these
   functions. */
static bool
memory_is_the_systems(void)
{
    Dl_info of_free, of_aligned, of_system, of_python;
    if (dladdr((void *)(uintptr_t)&free, &of_free) == 0 || dladdr((void *)(uintptr_t)&posix_memalign, &of_aligned) == 0
        || dladdr((void *)(uintptr_t)&dl_iterate_phdr, &of_system) == 0 || dladdr(&PyType_Type, &of_python) == 0) {
        return false;
    }
    return of_aligned.dli_fbase == of_system.dli_fbase
           && (of_free.dli_fbase == of_system.dli_fbase || of_free.dli_fbase == of_python.dli_fbase);
}

static bool
all_is_silent(struct scan *scan)
{
    PyTypeObject *plain = (PyTypeObject *)scan->state->module_spec;
    dl_iterate_phdr(note_known_code, &scan->known);
    PyObjectArenaAllocator arenas;
    PyObject_GetArenaAllocator(&arenas);
    if (plain == NULL || !PyType_Check(plain) || plain->tp_base != &PyBaseObject_Type
        || scan->known.count == MOST_SEGMENTS || !is_known_code(&scan->known, (uintptr_t)plain->tp_dealloc)
        || !is_known_code(&scan->known, (uintptr_t)arenas.free) || !memory_is_the_systems()
        || !has_plain_names(PyImport_GetModuleDict()) || !grow_types(scan)) {
        return false;
    }
    scan->plain_dealloc = plain->tp_dealloc;
    scan->plain_clear = plain->tp_clear;
    scan->library = ascii(scan->state->library);
    note_arena(scan);
    PyObject *roots[2];
    native_roots(&scan->state->native.context.layout, roots);
    return look_at_any(scan, roots[0]) == 0 && look_at_any(scan, roots[1]) == 0 && examine_waiting(scan)
           && native_each_tracked(&scan->state->native.context.layout, examine_tracked, scan)
           && scan->met_module;
}

/* sys.modules is emptied, and no module freed. None: that was done already. */
static void
keep_modules(loader_state *state)
{
    PyObject *modules = system_object(state, state->strings.modules);
    if (modules == NULL || !PyDict_CheckExact(modules) || modules != PyImport_GetModuleDict()) {
        return;
    }
    PyObject *name, *module;
    for (Py_ssize_t at = 0; PyDict_Next(modules, &at, &name, &module);) {
        Py_INCREF(module); /* for good */
    }
    PyDict_Clear(modules);
}

/* Looks at everything and, if nothing could be seen, leaves it to the system. */
static void
look_and_shorten(loader_state *state)
{
    struct scan scan = {.state = state, .budget = 4000000};
    bool silent = all_is_silent(&scan);
    free(scan.types);
    free(scan.waiting);
    if (silent) {
        native_freeze(&state->native.context.layout);
        keep_modules(state);
        state->session->end_shortened = true;
    }
    if (silent || !scan.may_be_garbage) {
        state->end = END_AS_EVER;
    }
}

void
finalization_shorten(loader_state *state)
{
    if (may_shorten(state) && modules_are_going(state)) {
        look_and_shorten(state);
        state->end = END_AS_EVER;
    }
}

/* ---- the moment before the last collections ---- */

/* Of the process, as io's types may be (3.11). */
static PyMethodDef *plain_flush; /* NULL: nothing was replaced */
static PyMethodDef our_flush;
static loader_state *flushing; /* NULL: only pass calls on */

static int flushes; /* that are under way: a stream flushes what it wraps, whatever that is */
static bool output_is_flushed; /* sys.stdout, by the interpreter that is being finalised */

/* Was this the call for sys.stderr, which is the interpreter's last one (Python/pylifecycle.c, flush_std_files, which
   Py_FinalizeEx calls when it is no longer initialised)? It comes behind that for sys.stdout; which must be of the same
   type: another one's flush could call this, and go on. */
static bool
was_last_flush(loader_state *state, PyObject *stream)
{
    PyObject *output = system_object(state, state->strings.standard_output);
    bool is_second = output == NULL || output == Py_None || output_is_flushed;
    output_is_flushed |= stream == output;
    return is_second && stream == system_object(state, state->strings.standard_error);
}

/* In place of io.TextIOWrapper.flush. */
static PyObject *
flush(PyObject *self, PyObject *unused)
{
    flushes++;
    PyObject *result = plain_flush->ml_meth(self, unused);
    flushes--;
    loader_state *state = flushing;
    if (state != NULL && result != NULL && !Py_IsInitialized() && flushes == 0 && may_shorten(state)
        && was_last_flush(state, self)) {
        look_and_shorten(state);
    }
    return result;
}

static void
watch_flush(loader_state *state)
{
    PyObject *stream = system_object(state, state->strings.standard_error);
    if (flushing != NULL || stream == NULL || strcmp(Py_TYPE(stream)->tp_name, "_io.TextIOWrapper") != 0) {
        return;
    }
    PyObject *name = PyUnicode_InternFromString("flush");
    PyObject *descriptor = name == NULL ? NULL : _PyType_Lookup(Py_TYPE(stream), name);
    if (descriptor != NULL && Py_IS_TYPE(descriptor, &PyMethodDescr_Type)) {
        PyMethodDef **definition = &((PyMethodDescrObject *)descriptor)->d_method;
        if (*definition != &our_flush && (*definition)->ml_flags == METH_NOARGS
            && (plain_flush == NULL || plain_flush == *definition)) {
            plain_flush = *definition;
            our_flush = **definition;
            our_flush.ml_meth = flush;
            *definition = &our_flush;
        }
        flushing = *definition == &our_flush ? state : NULL;
    }
    Py_XDECREF(name);
    PyErr_Clear();
}

void
finalization_clear(loader_state *state)
{
    if (flushing == state) {
        flushing = NULL;
    }
}

/* 3.11: has the interpreter let go of what sys.__interactivehook__ was? */
static PyObject *
hook_is_gone(PyObject *module, PyObject *reference)
{
    (void)reference;
    loader_state *state = Py_IsInitialized() ? NULL : PyModule_GetState(module);
    if (state != NULL) {
        finalization_shorten(state);
    }
    Py_RETURN_NONE;
}

static PyMethodDef hook_is_gone_definition = {"_hook_is_gone", hook_is_gone, METH_O, NULL};

/* False: there is no such function yet, or there will be none. */
static bool
watch_hook(loader_state *state)
{
    PyObject *hook = PyDict_GetItemString(state->system, "__interactivehook__");
    if (hook == NULL || !PyFunction_Check(hook)) {
        return false;
    }
    PyObject *call = PyCFunction_New(&hook_is_gone_definition, state->module);
    state->hook_reference = call == NULL ? NULL : PyWeakref_NewRef(hook, call);
    Py_XDECREF(call);
    PyErr_Clear();
    return true;
}

void
finalization_arm(loader_state *state)
{
    const struct session *session = state->session;
    if (state->end == END_DUE) {
        bool wanted = !(session->settings.skipped & ACCELERATION_EXIT) && !session->settings.preloaded
                      && executable_is_python(session->executable);
        state->end = wanted ? END_ARMED : END_AS_EVER;
        if (wanted) {
            watch_flush(state);
        }
    }
    if (NATIVE_SYS_HAS_COPY && state->end == END_ARMED && !state->hook_is_watched) {
        state->hook_is_watched = watch_hook(state);
    }
}

#else

void
finalization_clear(loader_state *state)
{
    (void)state;
}

void
finalization_arm(loader_state *state)
{
    state->end = END_AS_EVER;
}

void
finalization_shorten(loader_state *state)
{
    (void)state;
}

#endif
