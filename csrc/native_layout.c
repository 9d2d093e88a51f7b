#ifndef Py_BUILD_CORE
#define Py_BUILD_CORE 1
#endif
#include "native_layout.h"

#if NATIVE_SUPPORTED

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter" /* in CPython's headers, from 3.14 on */
#include <internal/pycore_code.h>
#include <internal/pycore_frame.h>
#if PY_VERSION_HEX >= 0x030e0000
#include <internal/pycore_interpframe.h>
#endif
#include <internal/pycore_dict.h>
#include <internal/pycore_gc.h>
#include <internal/pycore_interp.h>
#include <internal/pycore_object.h>
#if PY_VERSION_HEX >= 0x030f0000
#include <internal/pycore_opcode_utils.h>
#endif
#include <internal/pycore_pymem.h>
#include <internal/pycore_pystate.h>
#include <internal/pycore_runtime.h>
#include <internal/pycore_unicodeobject.h>
#pragma GCC diagnostic pop

#ifdef __linux__
#include <link.h>
#endif
#include <marshal.h>
#include <opcode.h>
#include <stdlib.h>
#include <string.h>

/* Include/internal/pycore_runtime_init.h, _PyRuntimeState_INIT */
#if PY_VERSION_HEX < 0x030d0000
#define DEFAULT_YOUNG_THRESHOLD 700
#else
#define DEFAULT_YOUNG_THRESHOLD 2000
#endif

/* ---- all versions ---- */

_Static_assert(sizeof(_Py_CODEUNIT) == NATIVE_UNIT_BYTES, "the stream has code units of that size");

struct local_counts {
    int locals, plain_cells, cells, free;
};

/* As Objects/codeobject.c, get_localsplus_counts (3.11 to 3.15), counts kinds of local variables. */
static struct local_counts
count_locals(const unsigned char *kinds, Py_ssize_t count)
{
    struct local_counts counts = {0, 0, 0, 0};
    for (Py_ssize_t i = 0; i < count; i++) {
        if (kinds[i] & CO_FAST_LOCAL) {
            counts.locals++;
            counts.cells += (kinds[i] & CO_FAST_CELL) != 0;
        }
        else if (kinds[i] & CO_FAST_CELL) {
            counts.cells++;
            counts.plain_cells++;
        }
        else if (kinds[i] & CO_FAST_FREE) {
            counts.free++;
        }
    }
    return counts;
}

/* The checks of Objects/codeobject.c, _PyCode_Validate (3.11 to 3.15). */
static bool
parts_fit(const struct native_code_parts *parts, struct local_counts *counts)
{
    const int *numbers = parts->numbers;
    PyObject *const *objects = parts->objects;
    int signs = numbers[NATIVE_ARGCOUNT] | numbers[NATIVE_POSONLYARGCOUNT] | numbers[NATIVE_KWONLYARGCOUNT]
                | numbers[NATIVE_STACKSIZE] | numbers[NATIVE_FLAGS] | numbers[NATIVE_FIRSTTRACEABLE];
    if (signs < 0 || numbers[NATIVE_ARGCOUNT] < numbers[NATIVE_POSONLYARGCOUNT]
        || numbers[NATIVE_STACKSIZE] > INT_MAX / 16 || parts->units <= 0 || parts->units > INT_MAX / 2
        || numbers[NATIVE_FIRSTTRACEABLE] > parts->units || !PyTuple_CheckExact(objects[NATIVE_CONSTS])
        || !PyTuple_CheckExact(objects[NATIVE_NAMES]) || !PyTuple_CheckExact(objects[NATIVE_LOCALSPLUSNAMES])
        || !PyBytes_CheckExact(objects[NATIVE_LOCALSPLUSKINDS])
        || PyTuple_GET_SIZE(objects[NATIVE_LOCALSPLUSNAMES]) != PyBytes_GET_SIZE(objects[NATIVE_LOCALSPLUSKINDS])
        || PyTuple_GET_SIZE(objects[NATIVE_LOCALSPLUSNAMES]) > INT_MAX / 16
        || !PyUnicode_CheckExact(objects[NATIVE_FILENAME]) || !PyUnicode_CheckExact(objects[NATIVE_NAME])
        || !PyUnicode_CheckExact(objects[NATIVE_QUALNAME]) || !PyBytes_CheckExact(objects[NATIVE_LINETABLE])
        || !PyBytes_CheckExact(objects[NATIVE_EXCEPTIONTABLE])) {
        return false;
    }
    *counts = count_locals(
        (const unsigned char *)PyBytes_AS_STRING(objects[NATIVE_LOCALSPLUSKINDS]),
        PyBytes_GET_SIZE(objects[NATIVE_LOCALSPLUSKINDS]));
    int64_t named = (int64_t)numbers[NATIVE_ARGCOUNT] + numbers[NATIVE_KWONLYARGCOUNT]
                    + ((numbers[NATIVE_FLAGS] & CO_VARARGS) != 0) + ((numbers[NATIVE_FLAGS] & CO_VARKEYWORDS) != 0);
    return named <= counts->locals;
}

/* What every version has alike. */
static void
fill_common(PyCodeObject *code, const struct native_code_parts *parts, const struct local_counts *counts)
{
    memset(code, 0, NATIVE_CODE_HEAD);
    native_set_immortal((PyObject *)code);
    ((PyObject *)code)->ob_type = &PyCode_Type;
    ((PyVarObject *)code)->ob_size = parts->units;
    code->co_argcount = parts->numbers[NATIVE_ARGCOUNT];
    code->co_posonlyargcount = parts->numbers[NATIVE_POSONLYARGCOUNT];
    code->co_kwonlyargcount = parts->numbers[NATIVE_KWONLYARGCOUNT];
    code->co_stacksize = parts->numbers[NATIVE_STACKSIZE];
    code->co_flags = parts->numbers[NATIVE_FLAGS];
    code->co_firstlineno = parts->numbers[NATIVE_FIRSTLINENO];
    code->_co_firsttraceable = parts->numbers[NATIVE_FIRSTTRACEABLE];
    code->co_nlocalsplus = (int)PyTuple_GET_SIZE(parts->objects[NATIVE_LOCALSPLUSNAMES]);
    code->co_nlocals = counts->locals;
    code->co_ncellvars = counts->cells;
    code->co_nfreevars = counts->free;
    code->co_consts = parts->objects[NATIVE_CONSTS];
    code->co_names = parts->objects[NATIVE_NAMES];
    code->co_localsplusnames = parts->objects[NATIVE_LOCALSPLUSNAMES];
    code->co_localspluskinds = parts->objects[NATIVE_LOCALSPLUSKINDS];
    code->co_filename = parts->objects[NATIVE_FILENAME];
    code->co_name = parts->objects[NATIVE_NAME];
    code->co_qualname = parts->objects[NATIVE_QUALNAME];
    code->co_linetable = parts->objects[NATIVE_LINETABLE];
    code->co_exceptiontable = parts->objects[NATIVE_EXCEPTIONTABLE];
}

void
native_code_take_apart(PyCodeObject *code, struct native_code_parts *parts)
{
    *parts = (struct native_code_parts){
        .numbers =
            {
                [NATIVE_ARGCOUNT] = code->co_argcount,
                [NATIVE_POSONLYARGCOUNT] = code->co_posonlyargcount,
                [NATIVE_KWONLYARGCOUNT] = code->co_kwonlyargcount,
                [NATIVE_STACKSIZE] = code->co_stacksize,
                [NATIVE_FLAGS] = code->co_flags,
                [NATIVE_FIRSTLINENO] = code->co_firstlineno,
                [NATIVE_FIRSTTRACEABLE] = code->_co_firsttraceable,
            },
        .units = Py_SIZE(code),
        .objects =
            {
                [NATIVE_CONSTS] = code->co_consts,
                [NATIVE_NAMES] = code->co_names,
                [NATIVE_LOCALSPLUSNAMES] = code->co_localsplusnames,
                [NATIVE_LOCALSPLUSKINDS] = code->co_localspluskinds,
                [NATIVE_FILENAME] = code->co_filename,
                [NATIVE_NAME] = code->co_name,
                [NATIVE_QUALNAME] = code->co_qualname,
                [NATIVE_LINETABLE] = code->co_linetable,
                [NATIVE_EXCEPTIONTABLE] = code->co_exceptiontable,
            },
    };
}

#define DIFFERENT(field) (one->field != other->field)

static const char *
difference_common(PyCodeObject *one, PyCodeObject *other)
{
    if (Py_SIZE(one) != Py_SIZE(other)
        || memcmp(one->co_code_adaptive, other->co_code_adaptive, (size_t)Py_SIZE(one) * sizeof(_Py_CODEUNIT)) != 0) {
        return "adaptive code";
    }
    if (DIFFERENT(co_argcount) || DIFFERENT(co_posonlyargcount) || DIFFERENT(co_kwonlyargcount)) {
        return "argument counts";
    }
    if (DIFFERENT(co_flags) || DIFFERENT(co_stacksize) || DIFFERENT(co_firstlineno)) {
        return "flags, stack size or first line";
    }
    if (DIFFERENT(co_nlocalsplus) || DIFFERENT(co_nlocals) || DIFFERENT(co_ncellvars) || DIFFERENT(co_nfreevars)) {
        return "counts of local variables";
    }
    if (DIFFERENT(_co_firsttraceable) || DIFFERENT(co_weakreflist) || DIFFERENT(co_extra)) {
        return "first traceable instruction, weak references or extra";
    }
    return NULL;
}

#ifdef __linux__

/* dl_iterate_phdr calls this for the program itself first: does it lie where it was linked to lie, with `bytes` in
   it? */
static int
find_in_program(struct dl_phdr_info *program, size_t size, void *found)
{
    (void)size;
    for (int i = 0; program->dlpi_addr == 0 && i < program->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &program->dlpi_phdr[i];
        uintptr_t offset = (uintptr_t)&PyBytes_Type - segment->p_vaddr;
        if (segment->p_type == PT_LOAD && offset < segment->p_memsz) {
            *(bool *)found = true;
        }
    }
    return 1;
}

#endif

/* Are the interpreter's structures laid out as the headers had them, as far as it tells? Python/pylifecycle.c (3.13) or
   Python/pystate.c (3.14), _PyRuntime.debug_offsets, for debuggers. Patch releases may add fields at the end of the
   largest structures. */
static bool
structures_are_known(void)
{
#if PY_VERSION_HEX < 0x030e0000
    return true; /* each field that is used is tried out */
#else
    static const _Py_DebugOffsets expected = _Py_DebugOffsets_INIT(_Py_Debug_Cookie);
    _Py_DebugOffsets known = _PyRuntime.debug_offsets;
    known.version = expected.version;
    known.runtime_state.size = expected.runtime_state.size;
    known.interpreter_state.size = expected.interpreter_state.size;
    known.thread_state.size = expected.thread_state.size;
    return memcmp(&known, &expected, sizeof(known)) == 0;
#endif
}

/* Are bytes of one character that marshal reads the interpreter's own objects (Python/marshal.c, r_object,
   TYPE_STRING)? Asked for the releases in which that changed. */
static bool
single_bytes_by_marshal(void)
{
#if PY_VERSION_HEX < 0x030e0000
    return false;
#else
    PyObject *own = PyBytes_FromStringAndSize("x", 1);
    PyObject *read = PyMarshal_ReadObjectFromString("s\1\0\0\0x", 6);
    bool single = own != NULL && own == read;
    PyErr_Clear();
    Py_XDECREF(own);
    Py_XDECREF(read);
    return single;
#endif
}

/* ---- automatic collections, 3.11 to 3.15 ---- */
#if NATIVE_KNOWS_COLLECTOR

/* Has the running interpreter the collector that it was compiled for? */
static inline bool
collector_has_generations(void)
{
    return Py_Version < 0x030e0000 || Py_Version >= 0x030e05f0;
}

/* Include/internal/pycore_gc.h, struct _gc_runtime_state: an allocation counts generations[0].count up, and above the
   threshold it collects (Modules/gcmodule.c, gc_alloc and _PyObject_GC_Link, 3.11; _PyObject_GC_Link there, 3.12, and
   in Python/gc.c, 3.13: it schedules the collection). A deallocation counts down only what is above zero
   (PyObject_GC_Del). */

#define POSTPONED_ALLOCATIONS 100000

/* gc.set_threshold and gc.get_count of a program that may have a collection put off. The interpreter's tables of the
   functions of its module gc are changed: the module may not be made yet, and is not to be made for this. */
static PyCFunction plain_set_threshold, plain_get_count;
static bool threshold_is_set; /* by the program: it's the one who knows, whatever the number is */

static struct _gc_runtime_state *
collector_of_thread(void)
{
    return &PyInterpreterState_Get()->gc;
}

static PyObject *
set_threshold(PyObject *module, PyObject *arguments)
{
    PyObject *result = plain_set_threshold(module, arguments); /* up to 3.12, one that fails may have set the first */
    int *count = &collector_of_thread()->generations[0].count;
    if (*count < 0) { /* what the program allocated counts from now on */
        *count = *count < -POSTPONED_ALLOCATIONS ? 0 : *count + POSTPONED_ALLOCATIONS;
    }
    threshold_is_set |= PyInterpreterState_Get() == PyInterpreterState_Main();
    return result;
}

static PyObject *
get_count(PyObject *module, PyObject *unused)
{
    int *count = &collector_of_thread()->generations[0].count;
    int postponed = *count < 0 ? *count : 0;
    *count -= postponed;
    PyObject *result = plain_get_count(module, unused);
    *count += postponed;
    return result;
}

#ifdef __linux__

struct written_range {
    uintptr_t at, end;
    bool writable;
};

/* dl_iterate_phdr: is the range in a segment that may be written to, and stays so? */
static int
find_writable(struct dl_phdr_info *object, size_t size, void *context)
{
    (void)size;
    struct written_range *range = context;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &object->dlpi_phdr[i];
        uintptr_t at = object->dlpi_addr + segment->p_vaddr;
        bool overlaps = range->at < at + segment->p_memsz && at < range->end;
        if (segment->p_type == PT_GNU_RELRO && overlaps) {
            range->writable = false;
            return 1;
        }
        if (segment->p_type == PT_LOAD && segment->p_flags & PF_W && range->at >= at
            && range->end <= at + segment->p_memsz) {
            range->writable = true;
        }
    }
    return range->writable;
}

static bool
is_writable(const PyMethodDef *method)
{
    struct written_range range = {(uintptr_t)method, (uintptr_t)(method + 1), false};
    dl_iterate_phdr(find_writable, &range);
    return range.writable;
}

#else

static bool
is_writable(const PyMethodDef *method)
{
    (void)method;
    return false;
}

#endif

/* Modules/gcmodule.c, PyInit_gc (3.11 to 3.13): gives the definition of the module. */
static PyMethodDef *
methods_of_collector(void)
{
    for (const struct _inittab *entry = PyImport_Inittab; entry != NULL && entry->name != NULL; entry++) {
        if (strcmp(entry->name, "gc") == 0 && entry->initfunc != NULL) {
            PyObject *definition = entry->initfunc();
            PyErr_Clear();
            return definition != NULL && Py_IS_TYPE(definition, &PyModuleDef_Type)
                       ? ((PyModuleDef *)definition)->m_methods
                       : NULL;
        }
    }
    return NULL;
}

static void
watch_collector(void)
{
    static bool tried;
    PyMethodDef *methods = tried ? NULL : methods_of_collector();
    tried = true;
    PyMethodDef *threshold = NULL, *count = NULL;
    for (PyMethodDef *method = methods; method != NULL && method->ml_name != NULL; method++) {
        if (strcmp(method->ml_name, "set_threshold") == 0 && method->ml_flags == METH_VARARGS) {
            threshold = method;
        }
        else if (strcmp(method->ml_name, "get_count") == 0 && method->ml_flags == METH_NOARGS) {
            count = method;
        }
    }
    if (threshold != NULL && count != NULL && is_writable(threshold) && is_writable(count)) {
        plain_set_threshold = threshold->ml_meth;
        plain_get_count = count->ml_meth;
        threshold->ml_meth = set_threshold;
        count->ml_meth = get_count;
    }
}

void
native_layout_postpone_collection(const struct native_layout *layout)
{
    struct _gc_runtime_state *collector = &layout->interpreter->gc;
    if (layout->young_threshold == 0 || threshold_is_set || !collector->enabled
        || collector->generations[0].threshold != layout->young_threshold) {
        return;
    }
    if (plain_get_count == NULL) {
        watch_collector();
    }
    if (plain_get_count != NULL && collector->generations[0].count > -POSTPONED_ALLOCATIONS) {
        collector->generations[0].count = -POSTPONED_ALLOCATIONS;
    }
}

/* Is the collector's state where the headers had it? Then allocating and freeing an object shows in it, and so does
   switching it off. The threshold is taken for the program's own wish unless it is the interpreter's first. */
static void
check_collector(struct native_layout *layout)
{
    struct _gc_runtime_state *collector = &layout->interpreter->gc;
    layout->young_threshold = 0;
    layout->collector_is_known = false;
    if (!collector_has_generations() || !PyGC_IsEnabled() || !collector->enabled) {
        return;
    }
    PyGC_Disable();
    int before = collector->generations[0].count;
    bool sound = !collector->enabled && before >= 0;
    PyObject *object = PyTuple_New(100); /* longer than those that are kept for another use */
    sound = sound && object != NULL && collector->generations[0].count == before + 1;
    Py_XDECREF(object);
    sound = sound && collector->generations[0].count == before;
    PyGC_Enable();
    PyErr_Clear();
    layout->collector_is_known = sound && collector->enabled;
    threshold_is_set = false;
    if (layout->collector_is_known && collector->generations[0].threshold == DEFAULT_YOUNG_THRESHOLD) {
        layout->young_threshold = DEFAULT_YOUNG_THRESHOLD;
    }
}

#else

void
native_layout_postpone_collection(const struct native_layout *layout)
{
    (void)layout;
}

static void
check_collector(struct native_layout *layout)
{
    layout->young_threshold = 0;
    layout->collector_is_known = false;
}

#endif

/* The checks that every version needs. */
static const char *
check_common(struct native_layout *layout)
{
    /* Py_GetVersion: "3.11.7 (main, ...". A stable-looking file name doesn't keep anyone from loading this
       elsewhere. */
    char *rest = NULL;
    const char *version = Py_GetVersion();
    long major = strtol(version, &rest, 10);
    long minor = *rest == '.' ? strtol(rest + 1, &rest, 10) : -1;
    if (major != PY_MAJOR_VERSION || minor != PY_MINOR_VERSION) {
        return "interpreter of another version than the extension was compiled for";
    }
    if (!structures_are_known()) {
        return "layout of the interpreter is not the expected one";
    }
    if (PyCode_Type.tp_basicsize != (Py_ssize_t)NATIVE_CODE_HEAD || PyCode_Type.tp_itemsize != sizeof(_Py_CODEUNIT)
        || PyType_HasFeature(&PyCode_Type, Py_TPFLAGS_HAVE_GC)) {
        return "layout of code objects is not the expected one";
    }
    if (PyTuple_Type.tp_basicsize != (Py_ssize_t)offsetof(PyTupleObject, ob_item)
        || PyTuple_Type.tp_itemsize != sizeof(PyObject *) || !PyType_HasFeature(&PyTuple_Type, Py_TPFLAGS_HAVE_GC)
        || PyBytes_Type.tp_basicsize != (Py_ssize_t)offsetof(PyBytesObject, ob_sval) + 1
        || PyFloat_Type.tp_basicsize != sizeof(PyFloatObject) || PyComplex_Type.tp_basicsize != sizeof(PyComplexObject)
        || PyUnicode_Type.tp_basicsize != sizeof(PyUnicodeObject)) {
        return "layout of constants is not the expected one";
    }
    layout->interpreter = PyInterpreterState_Get();
    layout->fixed_types = false;
    layout->interned = NULL;
#ifdef __linux__
    dl_iterate_phdr(find_in_program, &layout->fixed_types);
#endif
    layout->debug = PySys_GetObject("gettotalrefcount") != NULL;
    layout->single_bytes = single_bytes_by_marshal();
    check_collector(layout);
    return NULL;
}

/* ---- 3.11 ---- */
#if PY_VERSION_HEX < 0x030c0000

/* Objects/codeobject.c, init_code (3.11.0 to 3.11.15). The code stays unquickened until it has run eight times
   (Include/internal/pycore_code.h, QUICKENING_INITIAL_WARMUP_VALUE and _PyCode_Warmup). */
bool
native_code_fill(const struct native_layout *layout, PyCodeObject *code, const struct native_code_parts *parts)
{
    struct local_counts counts;
    (void)layout;
    if (!parts_fit(parts, &counts)) {
        return false;
    }
    fill_common(code, parts, &counts);
    code->co_nplaincellvars = counts.plain_cells;
    code->co_warmup = QUICKENING_INITIAL_WARMUP_VALUE;
    return true;
}

const char *
native_code_difference(PyCodeObject *one, PyCodeObject *other)
{
    if (DIFFERENT(co_warmup) || DIFFERENT(co_nplaincellvars) || DIFFERENT(_co_linearray_entry_size)
        || DIFFERENT(_co_linearray) || DIFFERENT(_co_code)) {
        return "warm-up or caches";
    }
    return difference_common(one, other);
}

bool
native_layout_may_make_code(const struct native_layout *layout)
{
    (void)layout;
    return true; /* code watchers came with 3.12 */
}

const char *
native_layout_check(struct native_layout *layout)
{
    return check_common(layout);
}

/* ---- 3.12 and later ---- */
#else

/* Functions take over their code's version when they are made, and calls are specialised for one version: code with 0
   would give each function made of it another number, so that calls of functions made anew again and again (closures,
   lambdas) are half as fast. */

#if PY_VERSION_HEX < 0x030d0000

/* 3.12: Objects/codeobject.c, init_code, numbers code objects from _Py_next_func_version, which no library exports.
   Ours count from the middle of the range: it would take 2**31 code objects to meet. For all interpreters of the
   process, as is the original. */
static uint32_t
next_code_version(const struct native_layout *layout)
{
    static uint32_t next = (uint32_t)1 << 31;
    (void)layout;
    return next == 0 ? 0 : next++;
}

static const char *
check_code_version(struct native_layout *layout)
{
    (void)layout;
    return NULL;
}

#else

/* 3.13 to 3.15: Objects/codeobject.c, init_code. */
static uint32_t
next_code_version(const struct native_layout *layout)
{
    uint32_t *next = &layout->interpreter->func_state.next_version;
    return *next == 0 ? 0 : (*next)++;
}

/* Is the counter where the headers of the compiler's version had it? Patch releases may move it. */
static const char *
check_code_version(struct native_layout *layout)
{
    for (int i = 0; i < 2; i++) {
        uint32_t expected = layout->interpreter->func_state.next_version;
        PyCodeObject *code = PyCode_NewEmpty("", "", 1);
        if (code == NULL) {
            PyErr_Clear();
            return "out of memory";
        }
        uint32_t version = code->co_version;
        Py_DECREF(code);
        if (version != expected || expected == 0 || layout->interpreter->func_state.next_version != expected + 1) {
            return "counter of code versions is not where it is expected";
        }
    }
    return NULL;
}

#endif

/* Objects/codeobject.c, init_code (3.12 to 3.15). The adaptive code was prepared there by _PyCode_Quicken.
   _co_unique_id (3.14 on) has a meaning in free-threaded builds only, and is left as it comes in others. */
bool
native_code_fill(const struct native_layout *layout, PyCodeObject *code, const struct native_code_parts *parts)
{
    struct local_counts counts;
    if (!parts_fit(parts, &counts)) {
        return false;
    }
    fill_common(code, parts, &counts);
    code->co_framesize = code->co_nlocalsplus + code->co_stacksize + FRAME_SPECIALS_SIZE;
    code->co_version = next_code_version(layout);
    return true;
}

const char *
native_code_difference(PyCodeObject *one, PyCodeObject *other)
{
    if (DIFFERENT(co_framesize) || DIFFERENT(_co_cached) || DIFFERENT(_co_instrumentation_version)
        || DIFFERENT(_co_monitoring)) {
        return "frame size, caches or instrumentation";
    }
#if PY_VERSION_HEX >= 0x030d0000
    if (DIFFERENT(co_executors)) {
        return "executors";
    }
#endif
    return difference_common(one, other);
}

static int
ignore_code_event(PyCodeEvent event, PyCodeObject *code)
{
    (void)event;
    (void)code;
    return 0;
}

/* Include/internal/pycore_interp.h: a bit for each watcher (PyCode_AddWatcher), which init_code would tell of each new
   code object. */
bool
native_layout_may_make_code(const struct native_layout *layout)
{
    return layout->interpreter->active_code_watchers == 0;
}

/* Is the set of watchers where the headers had it? */
static const char *
check_watchers(struct native_layout *layout)
{
    unsigned char before = layout->interpreter->active_code_watchers;
    int watcher = PyCode_AddWatcher(ignore_code_event);
    if (watcher < 0 || watcher > 7) {
        PyErr_Clear();
        return "code objects are watched";
    }
    unsigned char during = layout->interpreter->active_code_watchers;
    PyCode_ClearWatcher(watcher);
    if (during != (before | 1 << watcher) || layout->interpreter->active_code_watchers != before) {
        return "set of code watchers is not where it is expected";
    }
    return NULL;
}

#if PY_VERSION_HEX < 0x03100000

/* Include/internal/pycore_interp.h (_Py_INTERP_CACHED_OBJECT): get_interned_dict of Objects/unicodeobject.c. */
static void
find_interned(struct native_layout *layout)
{
    PyObject *dictionary = layout->interpreter->cached_objects.interned_strings;
    PyObject *text = PyUnicode_InternFromString("pycds_auto._loader");
    if (text != NULL && dictionary != NULL && PyDict_CheckExact(dictionary) && !native_is_static(text)
        && PyDict_GetItemWithError(dictionary, text) == text) {
        layout->interned = dictionary;
    }
    PyErr_Clear();
    Py_XDECREF(text);
}

#else

static void
find_interned(struct native_layout *layout)
{
    (void)layout;
}

#endif

const char *
native_layout_check(struct native_layout *layout)
{
    const char *reason = check_common(layout);
    if (reason == NULL) {
        find_interned(layout);
        reason = check_watchers(layout);
    }
    return reason == NULL ? check_code_version(layout) : reason;
}

#endif

/* ---- classes ---- */
#if CLASSES_SUPPORTED

/* Objects/dictobject.c, 3.11 to 3.13: only keys of the general kind may be other objects. */
bool
native_has_plain_keys(PyObject *dictionary)
{
    if (((PyDictObject *)dictionary)->ma_keys->dk_kind != DICT_KEYS_GENERAL) {
        return true;
    }
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(dictionary, &at, &key, &value);) {
        if (!PyUnicode_CheckExact(key)) {
            return false;
        }
    }
    return true;
}

#if PY_VERSION_HEX < 0x030c0000

/* Objects/typeobject.c, type_new_set_names (3.11): another exception, with this one as its cause. */
void
classes_explain_set_name(PyTypeObject *type, PyObject *name, PyObject *attribute)
{
    _PyErr_FormatFromCause(
        PyExc_RuntimeError, "Error calling __set_name__ on '%.100s' instance %R in '%.100s'",
        Py_TYPE(attribute)->tp_name, name, type->tp_name);
}

/* Weak references at the end of an instance don't count; whether a dictionary there does, differs between releases. */
bool
classes_extends(const PyTypeObject *type, const PyTypeObject *base, bool *known)
{
    bool on_heap = type->tp_flags & Py_TPFLAGS_HEAPTYPE;
    Py_ssize_t size = type->tp_basicsize;
    if (type->tp_itemsize != 0 || base->tp_itemsize != 0) {
        return size != base->tp_basicsize || type->tp_itemsize != base->tp_itemsize;
    }
    *known &= !on_heap || type->tp_dictoffset <= 0 || base->tp_dictoffset != 0;
    if (on_heap && type->tp_weaklistoffset != 0 && base->tp_weaklistoffset == 0
        && type->tp_weaklistoffset + (Py_ssize_t)sizeof(PyObject *) == size) {
        size -= (Py_ssize_t)sizeof(PyObject *);
    }
    return size != base->tp_basicsize;
}

/* Both follow the rest; but where all instances have the same size, the dictionary is in front, three words before the
   object, and its offset counts from the end. */
void
classes_add_to_instances(PyTypeObject *type, bool dictionary, bool references)
{
    const Py_ssize_t word = sizeof(PyObject *);
    if (dictionary && type->tp_itemsize != 0) {
        type->tp_dictoffset = -word;
        type->tp_basicsize += word;
    }
    if (references) {
        type->tp_weaklistoffset = type->tp_basicsize;
        type->tp_basicsize += word;
    }
    if (dictionary && type->tp_itemsize == 0) {
        type->tp_flags |= Py_TPFLAGS_MANAGED_DICT;
        type->tp_dictoffset = -type->tp_basicsize - 3 * word;
    }
}

PyObject *
classes_interpreters_attributes(PyTypeObject *type)
{
    (void)type;
    return NULL;
}

#else

/* The same (3.12, 3.13): a note (Python/errors.c, _PyErr_FormatNote). */
void
classes_explain_set_name(PyTypeObject *type, PyObject *name, PyObject *attribute)
{
    PyObject *exception = PyErr_GetRaisedException();
    PyObject *note = PyUnicode_FromFormat(
        "Error calling __set_name__ on '%.100s' instance %R in '%.100s'", Py_TYPE(attribute)->tp_name, name,
        type->tp_name);
    PyObject *added =
        note == NULL ? NULL : PyObject_CallMethod(PyExc_BaseException, "add_note", "OO", exception, note);
    Py_XDECREF(note);
    if (added == NULL) {
        _PyErr_ChainExceptions1(exception);
        return;
    }
    Py_DECREF(added);
    PyErr_SetRaisedException(exception);
}

bool
classes_extends(const PyTypeObject *type, const PyTypeObject *base, bool *known)
{
    (void)known;
    return type->tp_basicsize != base->tp_basicsize || type->tp_itemsize != base->tp_itemsize;
}

/* Both are in front of the object. Include/internal/pycore_object.h, MANAGED_WEAKREF_OFFSET. */
void
classes_add_to_instances(PyTypeObject *type, bool dictionary, bool references)
{
    if (references) {
        type->tp_flags |= Py_TPFLAGS_MANAGED_WEAKREF;
        type->tp_weaklistoffset = MANAGED_WEAKREF_OFFSET;
    }
    if (dictionary) {
        type->tp_flags |= Py_TPFLAGS_MANAGED_DICT;
        type->tp_dictoffset = -1;
    }
}

PyObject *
classes_interpreters_attributes(PyTypeObject *type)
{
    return PyType_GetDict(type);
}

#endif
#endif

#if PY_VERSION_HEX >= 0x03100000

/* not looked up yet */
bool
native_is_observed(void)
{
    return false;
}

bool
native_can_tell_observers(void)
{
    return false;
}

#else

/* ---- what looks on at an import: 3.11 to 3.14 ----

   Audit hooks, Python/sysmodule.c, should_audit: Python's are in a list of the interpreter, those of C in one of the
   runtime. Profilers and tracers: 3.11, Python/ceval.c, _PyEval_SetProfile and _PyEval_SetTrace, set a function of the
   thread; from 3.12 on they are tools of sys.monitoring (Python/legacy_tracing.c), and these set bits of the
   interpreter (Python/instrumentation.c, _PyMonitoring_SetEvents); tools that watch single code objects only don't. */

/* importlib's deepest chain of calls from find_spec or get_code on has a dozen frames; a compiler that is called there
   counts the depth, too. */
#define FRAMES_OF_IMPORTLIB 64

#if PY_VERSION_HEX < 0x030c0000

#define HOOKS_OF_RUNTIME(runtime) ((runtime)->audit_hook_head)
#define RECURSION_LIMIT(thread) ((thread)->recursion_limit)
#define INITIAL_THREAD(interpreter) (&(interpreter)->_initial_thread)

static bool
is_followed(PyThreadState *thread)
{
    return thread->c_profilefunc != NULL || thread->c_tracefunc != NULL
           || thread->recursion_remaining < FRAMES_OF_IMPORTLIB;
}

#else

#define HOOKS_OF_RUNTIME(runtime) ((runtime)->audit_hooks.head)
#define RECURSION_LIMIT(thread) ((thread)->py_recursion_limit)
#if PY_VERSION_HEX < 0x030d0000
#define INITIAL_THREAD(interpreter) (&(interpreter)->_initial_thread)
#else
#define INITIAL_THREAD(interpreter) (&(interpreter)->_initial_thread.base)
#endif

#if PY_VERSION_HEX < 0x030e0000

static bool
c_recursion_is_near(PyThreadState *thread)
{
    return thread->c_recursion_remaining < FRAMES_OF_IMPORTLIB;
}

#else

/* Include/internal/pycore_ceval.h, _Py_MakeRecCheck: the stack itself is the limit. A call of the interpreter's loop
   takes less than 1 KB of it, in debug builds 4 KB. */
static bool
c_recursion_is_near(PyThreadState *thread)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    uintptr_t limit = ((_PyThreadStateImpl *)thread)->c_stack_soft_limit;
    return here < limit || here - limit < FRAMES_OF_IMPORTLIB * 4096;
}

#endif

static bool
is_followed(PyThreadState *thread)
{
    unsigned int tools = 0;
    for (size_t i = 0; i < sizeof(thread->interp->monitors.tools); i++) {
        tools |= thread->interp->monitors.tools[i];
    }
    /* Python calls Python without C recursion, and we don't */
    return tools != 0 || thread->py_recursion_remaining < FRAMES_OF_IMPORTLIB || c_recursion_is_near(thread);
}

#endif

bool
native_is_observed(void)
{
    PyThreadState *thread = PyThreadState_Get();
    return thread->interp->audit_hooks != NULL || HOOKS_OF_RUNTIME(&_PyRuntime) != NULL || is_followed(thread);
}

bool
native_can_tell_observers(void)
{
    PyThreadState *thread = PyThreadState_Get();
    PyInterpreterState *interpreter = PyInterpreterState_Get();
    /* the fields behind those of the thread, and behind the runtime's hooks */
    if (thread->interp != interpreter || thread->thread_id != PyThread_get_thread_ident()
        || RECURSION_LIMIT(thread) != Py_GetRecursionLimit()
        || &_PyRuntime._main_interpreter != PyInterpreterState_Main()) {
        return false;
    }
    /* before the interpreter's hooks: Python/_warnings.c, warnings_init_states and warnings_module_exec, have one
       dictionary in both places */
    PyObject *modules = PySys_GetObject("modules");
    PyObject *warnings = modules == NULL ? NULL : PyMapping_GetItemString(modules, "_warnings");
    PyObject *registry = warnings == NULL ? NULL : PyObject_GetAttrString(warnings, "_onceregistry");
    bool sound = registry != NULL && registry == interpreter->warnings.once_registry;
    Py_XDECREF(registry);
    Py_XDECREF(warnings);
    PyErr_Clear();
    /* behind them: Python/pystate.c, new_threadstate, gives the first thread a place in the interpreter's structure */
    PyThreadState *any = PyInterpreterState_ThreadHead(interpreter);
    while (any != NULL && any != INITIAL_THREAD(interpreter)) {
        any = PyThreadState_Next(any);
    }
    return sound && any != NULL;
}

#endif

/* ---- the end of the process: 3.11 to 3.15 ---- */
#if NATIVE_KNOWS_FINALIZATION

/* Is anything told of what becomes of objects? */
#if PY_VERSION_HEX < 0x030c0000

static bool
is_watched(PyInterpreterState *interpreter)
{
    (void)interpreter;
    return false;
}

#else

/* Include/internal/pycore_interp.h and pycore_dict_state.h, 3.12 to 3.15: watchers of types, functions and code, of
   which CPython itself has none; of dictionaries, of which it has two, and from 3.15 on a third (of modules, for lazy
   imports); tools of sys.monitoring. */
#define OWN_DICTIONARY_WATCHERS (PY_VERSION_HEX < 0x030f0000 ? 2 : 3)

static bool
is_watched(PyInterpreterState *interpreter)
{
    bool watched = interpreter->active_func_watchers != 0 || interpreter->active_code_watchers != 0;
    for (int i = 0; i < TYPE_MAX_WATCHERS; i++) {
        watched |= interpreter->type_watchers[i] != NULL;
    }
    for (int i = OWN_DICTIONARY_WATCHERS; i < DICT_MAX_WATCHERS; i++) {
        watched |= interpreter->dict_state.watchers[i] != NULL;
    }
    for (int i = 0; i < PY_MONITORING_TOOL_IDS; i++) {
        watched |= interpreter->monitoring_tool_names[i] != NULL;
    }
#if PY_VERSION_HEX >= 0x030d0000
    void *data;
    watched |= PyRefTracer_GetTracer(&data) != NULL;
#endif
    return watched;
}

#endif

/* A list of the collector's that isn't there, or has nothing in it. */
static bool
is_empty(PyObject *list)
{
    return list == NULL || (PyList_CheckExact(list) && PyList_GET_SIZE(list) == 0);
}

bool
native_end_is_ordinary(const struct native_layout *layout)
{
    PyInterpreterState *interpreter = layout->interpreter;
    PyThreadState *thread = PyThreadState_Get();
    struct _gc_runtime_state *collector = &interpreter->gc;
    if (!layout->collector_is_known || layout->debug || thread->interp != interpreter
        || interpreter != PyInterpreterState_Main() || interpreter != PyInterpreterState_Head()
        || PyInterpreterState_Next(interpreter) != NULL) {
        return false;
    }
    /* Daemon threads of the module _thread have left the list of threads, and are still in its count. */
    if (interpreter->threads.head != PyInterpreterState_ThreadHead(interpreter) || interpreter->threads.head != thread
        || PyThreadState_Next(thread) != NULL || interpreter->threads.count != 0) {
        return false;
    }
    if (collector->debug != 0 || collector->collecting != 0 || !is_empty(collector->garbage)
        || !is_empty(collector->callbacks)) {
        return false;
    }
    PyFrameObject *frame = PyThreadState_GetFrame(thread);
    if (frame != NULL) {
        Py_DECREF(frame);
        return false;
    }
    const PyConfig *config = _Py_GetConfig();
    if (config->verbose || config->dev_mode || config->malloc_stats || config->dump_refs || config->show_ref_count
        || config->tracemalloc || config->import_time) {
        return false;
    }
#if PY_VERSION_HEX >= 0x030c0000
    if (config->perf_profiling) {
        return false;
    }
#endif
    /* Nothing was put around the memory allocators. */
    const char *allocators = _PyMem_GetCurrentAllocatorName();
    if (allocators == NULL || strcmp(allocators, "pymalloc") != 0) {
        return false;
    }
    return interpreter->co_extra_user_count == 0
           && _PyInterpreterState_GetEvalFrameFunc(interpreter) == _PyEval_EvalFrameDefault && !is_watched(interpreter);
}

/* What a program itself made comes behind what its imports made, and is what most often decides. */
#define NEWEST_OBJECTS 1000

/* Asks for the memory behind an object that will be looked at soon. */
static inline void
prefetch_behind(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    if (type == &PyDict_Type) {
        __builtin_prefetch(((PyDictObject *)object)->ma_keys);
    }
}

/* Most of the time would be spent waiting for memory: so what will be looked at is asked for some objects before. */
static bool
each_in_list(PyGC_Head *list, bool (*call)(PyObject *object, void *argument), void *argument)
{
    PyGC_Head *next, *soon = list, *later = list;
    for (int i = 0; i < 8; i++) {
        later = (PyGC_Head *)later->_gc_next;
    }
    for (int i = 0; i < 4; i++) {
        soon = (PyGC_Head *)soon->_gc_next;
    }
    for (PyGC_Head *at = (PyGC_Head *)list->_gc_next; at != list; at = next) {
        next = (PyGC_Head *)at->_gc_next;
        later = (PyGC_Head *)later->_gc_next;
        __builtin_prefetch(later);
        __builtin_prefetch((char *)later + 64);
        soon = (PyGC_Head *)soon->_gc_next;
        if (soon != list) {
            prefetch_behind((PyObject *)(soon + 1));
        }
        if (!call((PyObject *)(at + 1), argument)) {
            return false;
        }
    }
    return true;
}

/* The newest objects of a list, which are its last. The two low bits of _gc_prev are flags. */
static bool
newest_in_list(PyGC_Head *list, int count, bool (*call)(PyObject *object, void *argument), void *argument)
{
    PyGC_Head *at = (PyGC_Head *)(list->_gc_prev & _PyGC_PREV_MASK);
    for (; at != list && count > 0; at = (PyGC_Head *)(at->_gc_prev & _PyGC_PREV_MASK), count--) {
        if (!call((PyObject *)(at + 1), argument)) {
            return false;
        }
    }
    return true;
}

bool
native_each_tracked(const struct native_layout *layout, bool (*call)(PyObject *object, void *argument), void *argument)
{
    struct _gc_runtime_state *collector = &layout->interpreter->gc;
    for (int i = 0; i < NUM_GENERATIONS; i++) {
        if (!newest_in_list(&collector->generations[i].head, NEWEST_OBJECTS, call, argument)) {
            return false;
        }
    }
    for (int i = NUM_GENERATIONS - 1; i >= 0; i--) {
        if (!each_in_list(&collector->generations[i].head, call, argument)) {
            return false;
        }
    }
    return each_in_list(&collector->permanent_generation.head, call, argument);
}

void
native_roots(const struct native_layout *layout, PyObject *roots[2])
{
    roots[0] = PyThreadState_Get()->dict;
    roots[1] = layout->interpreter->dict;
}

/* Modules/_threadmodule.c, localdummyobject; from 3.13 on _thread._local has the dictionaries, and shows them to the
   collector. */
struct local_dummy {
    PyObject_HEAD
#if PY_VERSION_HEX < 0x030d0000
    PyObject *localdict;
#endif
    PyObject *weakreflist;
};

PyObject *
native_thread_locals(PyObject *dummy)
{
    PyTypeObject *type = Py_TYPE(dummy);
    if (type->tp_basicsize != (Py_ssize_t)sizeof(struct local_dummy)
        || type->tp_weaklistoffset != (Py_ssize_t)offsetof(struct local_dummy, weakreflist)) {
        return NULL;
    }
#if PY_VERSION_HEX < 0x030d0000
    PyObject *values = ((struct local_dummy *)dummy)->localdict;
    return values != NULL && PyDict_CheckExact(values) ? values : NULL;
#else
    return Py_None;
#endif
}

/* Objects/dictobject.c, dict_traverse: 3.11 to 3.14. */
void
native_dictionary_values(PyObject *object, struct native_values *values)
{
    PyDictObject *dictionary = (PyDictObject *)object;
    PyDictKeysObject *keys = dictionary->ma_keys;
    values->count = keys->dk_nentries;
    values->keys = NULL;
    if (keys->dk_kind == DICT_KEYS_GENERAL) {
        values->keys = &DK_ENTRIES(keys)->me_key;
        values->first = &DK_ENTRIES(keys)->me_value;
        values->stride = sizeof(PyDictKeyEntry) / sizeof(PyObject *);
    }
    else if (dictionary->ma_values != NULL) {
        values->first = dictionary->ma_values->values;
        values->stride = 1;
    }
    else {
        values->first = &DK_UNICODE_ENTRIES(keys)->me_value;
        values->stride = sizeof(PyDictUnicodeEntry) / sizeof(PyObject *);
    }
}

/* As Modules/gcmodule.c, gc_freeze_impl (3.11, 3.12) and Python/gc.c, _PyGC_Freeze (3.13, 3.14). The two low bits of
   _gc_prev are flags. */
void
native_freeze(const struct native_layout *layout)
{
    struct _gc_runtime_state *collector = &layout->interpreter->gc;
    PyGC_Head *to = &collector->permanent_generation.head;
    for (int i = 0; i < NUM_GENERATIONS; i++) {
        PyGC_Head *from = &collector->generations[i].head;
        PyGC_Head *first = (PyGC_Head *)from->_gc_next;
        if (first != from) {
            PyGC_Head *last = (PyGC_Head *)from->_gc_prev, *before = (PyGC_Head *)to->_gc_prev;
            before->_gc_next = (uintptr_t)first;
            first->_gc_prev = (first->_gc_prev & ~_PyGC_PREV_MASK) | (uintptr_t)before;
            last->_gc_next = (uintptr_t)to;
            to->_gc_prev = (uintptr_t)last;
            from->_gc_next = from->_gc_prev = (uintptr_t)from;
        }
        collector->generations[i].count = 0;
    }
}

/* Modules/_io/textio.c, textio; bufferedio.c, buffered; fileio.c, fileio: 3.11 to 3.15, as far as it is looked at. 3.12
   and later have one more pointer at the end of some. */
struct text_stream {
    PyObject_HEAD
    int ok, detached;
    Py_ssize_t chunk_size;
    PyObject *buffer, *encoding, *encoder, *decoder, *readnl, *errors;
    const char *writenl;
    char flags[9];
    void *encodefunc;
    char encoding_start_of_stream;
    PyObject *decoded_chars;
    Py_ssize_t decoded_chars_used;
    PyObject *pending_bytes;
    Py_ssize_t pending_bytes_count;
    PyObject *snapshot;
    double b2cratio;
    PyObject *raw, *weakreflist, *dict;
};

struct buffered_stream {
    PyObject_HEAD
    PyObject *raw;
    int ok, detached, readable, writable;
    char finalizing;
    int fast_closed_checks;
    off_t abs_pos;
    char *buffer;
    off_t pos, raw_pos, read_end, write_pos, write_end;
    PyThread_type_lock lock;
    volatile unsigned long owner;
    Py_ssize_t buffer_size, buffer_mask;
    PyObject *dict, *weakreflist;
};

struct raw_stream {
    PyObject_HEAD
    int fd;
    unsigned int created : 1, readable : 1, writable : 1, appending : 1;
    signed int seekable : 2;
#if PY_VERSION_HEX >= 0x030f0000
    unsigned int truncate : 1;
#endif
    unsigned int closefd : 1;
    char finalizing;
    unsigned int blksize;
    PyObject *weakreflist, *dict;
};

#define IS_LAID_OUT(type, layout)                                                                                      \
    ((type)->tp_basicsize - (Py_ssize_t)sizeof(layout) >= 0                                                            \
     && (type)->tp_basicsize - (Py_ssize_t)sizeof(layout) <= (Py_ssize_t)sizeof(void *)                                \
     && (type)->tp_weaklistoffset == (Py_ssize_t)offsetof(layout, weakreflist)                                         \
     && (type)->tp_dictoffset == (Py_ssize_t)offsetof(layout, dict))

/* Attributes of its own could stand in for the methods that close a stream. These don't: Python/pylifecycle.c,
   create_stdio, and open() set `name` and `mode`; Modules/_io/iobase.c notes that a stream is closed. */
static bool
has_plain_attributes(PyObject *dictionary)
{
    static const char *const plain[] = {"mode", "name", "__IOBase_closed"};
    if (dictionary != NULL && !PyDict_CheckExact(dictionary)) {
        return false;
    }
    PyObject *name, *value;
    for (Py_ssize_t at = 0; dictionary != NULL && PyDict_Next(dictionary, &at, &name, &value);) {
        bool known = false;
        for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]) && PyUnicode_CheckExact(name); i++) {
            known |= PyUnicode_CompareWithASCIIString(name, plain[i]) == 0;
        }
        if (!known) {
            return false;
        }
    }
    return true;
}

bool
native_stream_is_idle(PyObject *stream, PyObject **inner)
{
    PyTypeObject *type = Py_TYPE(stream);
    *inner = NULL;
    if (strcmp(type->tp_name, "_io.TextIOWrapper") == 0) {
        struct text_stream *text = (struct text_stream *)stream;
        *inner = IS_LAID_OUT(type, struct text_stream) ? text->buffer : NULL;
        return *inner != NULL && text->ok == 1 && text->detached == 0 && text->pending_bytes == NULL
               && text->pending_bytes_count == 0 && text->encoding != NULL && PyUnicode_CheckExact(text->encoding)
               && text->errors != NULL && PyUnicode_CheckExact(text->errors) && has_plain_attributes(text->dict);
    }
    if (strcmp(type->tp_name, "_io.BufferedReader") == 0 || strcmp(type->tp_name, "_io.BufferedWriter") == 0) {
        struct buffered_stream *buffered = (struct buffered_stream *)stream;
        *inner = IS_LAID_OUT(type, struct buffered_stream) ? buffered->raw : NULL;
        return *inner != NULL && buffered->ok == 1 && buffered->detached == 0
               && (!buffered->writable || buffered->write_end == -1 || buffered->write_pos == buffered->write_end)
               && has_plain_attributes(buffered->dict);
    }
    if (strcmp(type->tp_name, "_io.FileIO") == 0) {
        struct raw_stream *raw = (struct raw_stream *)stream;
        return IS_LAID_OUT(type, struct raw_stream) && (raw->closefd == 0 || raw->fd < 0)
               && has_plain_attributes(raw->dict);
    }
    return false;
}

/* Objects/genobject.c, _PyGen_Finalize, has nothing to do then. */
bool
native_generator_is_finished(PyObject *generator)
{
    int state = ((PyGenObject *)generator)->gi_frame_state;
#ifdef FRAME_STATE_FINISHED
    return FRAME_STATE_FINISHED(state);
#else
    return state >= FRAME_COMPLETED;
#endif
}

/* What the compiler makes of "self.name = constant" (Python/compile.c; from 3.14 on Python/codegen.c and flowgraph.c).
   Inline caches are zero in what PyCode_GetCode tells. */
#if PY_VERSION_HEX < 0x030c0000
#define START_OF_MARK LOAD_CONST, 1, LOAD_FAST, 0
#define END_OF_MARK LOAD_CONST, 0, RETURN_VALUE, 0
#elif PY_VERSION_HEX < 0x030e0000
#define START_OF_MARK LOAD_CONST, 1, LOAD_FAST, 0
#define END_OF_MARK RETURN_CONST, 0
#elif PY_VERSION_HEX < 0x030f0000
#define START_OF_MARK LOAD_CONST, 0, LOAD_FAST_BORROW, 0
#define END_OF_MARK LOAD_CONST, 1, RETURN_VALUE, 0
#else /* of constants in general only True; RESUME has a cache */
#define START_OF_MARK 0, 0, LOAD_COMMON_CONSTANT, CONSTANT_TRUE, LOAD_FAST_BORROW, 0
#define END_OF_MARK LOAD_COMMON_CONSTANT, CONSTANT_NONE, RETURN_VALUE, 0
#endif
#define CONSTANTS_OF_MARK (PY_VERSION_HEX < 0x030f0000 ? 2 : 1)

PyObject *
native_code_that_marks(PyObject *object)
{
    static const unsigned char mark[] = {RESUME, 0, START_OF_MARK, STORE_ATTR, 0, 0, 0, 0, 0, 0, 0, 0, 0, END_OF_MARK};
    PyCodeObject *code = (PyCodeObject *)object;
    if (code->co_argcount != 2 || code->co_kwonlyargcount != 0 || code->co_nlocalsplus != 2
        || PyTuple_GET_SIZE(code->co_names) != 1 || PyTuple_GET_SIZE(code->co_consts) != CONSTANTS_OF_MARK
        || Py_SIZE(code) * NATIVE_UNIT_BYTES != sizeof(mark)
        || code->co_flags & (CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR | CO_VARARGS | CO_VARKEYWORDS)) {
        return NULL;
    }
    PyObject *bytes = PyCode_GetCode(code);
    bool same = bytes != NULL && memcmp(PyBytes_AS_STRING(bytes), mark, sizeof(mark)) == 0;
    Py_XDECREF(bytes);
    PyErr_Clear();
    return same ? PyTuple_GET_ITEM(code->co_names, 0) : NULL;
}

PyObject *
native_code_constants(PyObject *code)
{
    return ((PyCodeObject *)code)->co_consts;
}

#endif

#endif

/* ---- places in dictionaries ----

   Objects/dictobject.c, 3.14: a dictionary with str keys only has its items in the order of insertion in one table; a
   value is replaced there, a deleted item leaves its place empty until the table is made anew, and a new item takes the
   next place. */
#if NATIVE_REMEMBERS_PLACES

static const PyDictKeysObject *
plain_table(PyObject *dictionary)
{
    const PyDictObject *object = (PyDictObject *)dictionary;
    return object->ma_values == NULL && object->ma_keys->dk_kind == DICT_KEYS_UNICODE ? object->ma_keys : NULL;
}

bool
native_places_take(
    struct native_places *places, PyObject *dictionary, enum native_wish (*wish)(PyObject *key, void *argument),
    void *argument)
{
    const PyDictKeysObject *table = plain_table(dictionary);
    Py_ssize_t count = 0, entries = table == NULL ? 0 : table->dk_nentries;
    struct native_place *each = malloc(sizeof(*each) * (size_t)(entries + 1));
    for (Py_ssize_t i = 0; each != NULL && i < entries; i++) {
        const PyDictUnicodeEntry *entry = &DK_UNICODE_ENTRIES((PyDictKeysObject *)table)[i];
        enum native_wish wanted = entry->me_value == NULL ? NATIVE_NOT_WANTED : wish(entry->me_key, argument);
        if (wanted != NATIVE_NOT_WANTED) {
            each[count++] = (struct native_place){(uint32_t)i, wanted == NATIVE_KEY_WANTED};
        }
    }
    PyObject *items = each == NULL || table == NULL ? NULL : PyTuple_New(2 * count);
    if (items == NULL || plain_table(dictionary) != table || table->dk_nentries != entries) {
        PyErr_Clear();
        Py_XDECREF(items);
        free(each);
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        const PyDictUnicodeEntry *entry = &DK_UNICODE_ENTRIES((PyDictKeysObject *)table)[each[i].index];
        PyTuple_SET_ITEM(items, 2 * i, Py_XNewRef(entry->me_key));
        PyTuple_SET_ITEM(items, 2 * i + 1, Py_XNewRef(each[i].key_only ? Py_None : entry->me_value));
    }
    Py_XSETREF(places->items, items);
    free(places->each);
    places->each = each;
    places->table = table;
    places->entries = entries;
    places->table_size = table->dk_log2_size;
    return true;
}

/* The table may be another one, at the address of one that was freed: the number of items tells of new ones in places
   that were empty. */
bool
native_places_hold(const struct native_places *places, PyObject *dictionary, bool all)
{
    const PyDictKeysObject *table = plain_table(dictionary);
    if (places->items == NULL || table == NULL || table != places->table || table->dk_log2_size != places->table_size
        || table->dk_nentries < places->entries) {
        return false;
    }
    PyObject *const *items = ((PyTupleObject *)places->items)->ob_item;
    const PyDictUnicodeEntry *entries = DK_UNICODE_ENTRIES((PyDictKeysObject *)table);
    Py_ssize_t count = PyTuple_GET_SIZE(places->items) / 2;
    bool hold = !all || PyDict_GET_SIZE(dictionary) == count;
    for (Py_ssize_t i = 0; i < count; i++) {
        const PyDictUnicodeEntry *entry = &entries[places->each[i].index];
        hold &= entry->me_key == items[2 * i] && entry->me_value != NULL
                && (entry->me_value == items[2 * i + 1] || places->each[i].key_only);
    }
    return hold;
}

#else

bool
native_places_take(
    struct native_places *places, PyObject *dictionary, enum native_wish (*wish)(PyObject *key, void *argument),
    void *argument)
{
    (void)places, (void)dictionary, (void)wish, (void)argument;
    return false;
}

bool
native_places_hold(const struct native_places *places, PyObject *dictionary, bool all)
{
    (void)places, (void)dictionary, (void)all;
    return false;
}

#endif

/* ---- interned strings ---- */
#if NATIVE_SUPPORTED

#if PY_VERSION_HEX < 0x030e0000

void
native_intern_in_place(const struct native_layout *layout, PyObject **text)
{
    (void)layout;
    PyUnicode_InternInPlace(text);
}

#else

/* Python/marshal.c, r_object. */
void
native_intern_in_place(const struct native_layout *layout, PyObject **text)
{
    _PyUnicode_InternImmortal(layout->interpreter, text);
}

#endif

#endif

/* ---- source texts ---- */

/* A string of its own with these characters. */
static PyObject *
copy_of_string(PyObject *text)
{
    return PyUnicode_CheckExact(text) ? PyUnicode_FromKindAndData(
               PyUnicode_KIND(text), PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text))
                                      : NULL;
}

#if PY_VERSION_HEX >= 0x030d0000 && PY_VERSION_HEX < 0x03100000

#include <internal/pycore_interp.h>
#include <internal/pycore_unicodeobject.h>

/* Objects/unicodeobject.c: the public functions make it immortal. */
static void
intern_mortal(PyObject **text)
{
    _PyUnicode_InternMortal(PyInterpreterState_Get(), text);
}

void
native_layout_intern_file_name(PyObject **name)
{
    intern_mortal(name);
}

#else

static void
intern_mortal(PyObject **text)
{
    PyUnicode_InternInPlace(text);
}

void
native_layout_intern_file_name(PyObject **name)
{
    (void)name;
}

#endif

#if PY_VERSION_HEX >= 0x030c0000 && PY_VERSION_HEX < 0x030d0000

#include <internal/pycore_interp.h>

/* 3.12 makes interned strings immortal (Objects/unicodeobject.c, PyUnicode_InternInPlace). One that we have interned,
   and that nobody has seen, is taken out of the dictionary again; its memory is lost. */
static void
forget_interned(PyObject *text)
{
    PyObject *dictionary = PyInterpreterState_Get()->cached_objects.interned_strings;
    if (dictionary != NULL && PyDict_CheckExact(dictionary) && PyDict_GetItemWithError(dictionary, text) == text) {
        (void)PyDict_DelItem(dictionary, text);
    }
    PyErr_Clear();
}

#else

/* It goes with its last reference. */
static void
forget_interned(PyObject *text)
{
    (void)text;
}

#endif

#if PY_VERSION_HEX < 0x030e0000

void
native_layout_own_kinds(PyObject *code)
{
    (void)code;
}

#else

void
native_layout_own_kinds(PyObject *object)
{
    PyCodeObject *code = (PyCodeObject *)object;
    PyObject *own = PyBytes_GET_SIZE(code->co_localspluskinds) == 1 ? PyBytes_FromStringAndSize(NULL, 1) : NULL;
    PyErr_Clear();
    if (own != NULL) {
        *PyBytes_AS_STRING(own) = *PyBytes_AS_STRING(code->co_localspluskinds);
        Py_SETREF(code->co_localspluskinds, own);
    }
}

#endif

PyObject *
native_layout_known_string(PyObject *text)
{
    PyObject *copy = copy_of_string(text), *known = copy;
    if (copy == NULL || PyUnicode_CHECK_INTERNED(copy)) { /* a single character, say */
        PyErr_Clear();
        return copy;
    }
    Py_INCREF(copy); /* `known` has one, too: it may be given back */
    intern_mortal(&known);
    if (known == copy) {
        forget_interned(copy);
        Py_CLEAR(known);
    }
    Py_DECREF(copy);
    return known;
}
