#ifndef Py_BUILD_CORE
#define Py_BUILD_CORE 1
#endif
#include "native_layout.h"

#if NATIVE_SUPPORTED

#include <internal/pycore_code.h>
#include <internal/pycore_frame.h>
#include <internal/pycore_interp.h>

#ifdef __linux__
#include <link.h>
#endif
#include <stdlib.h>
#include <string.h>

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

/* The checks of Objects/codeobject.c, _PyCode_Validate (3.11 to 3.13). */
static bool
parts_fit(const struct native_code_parts *parts, struct local_counts *counts)
{
    const int *numbers = parts->numbers;
    PyObject *const *objects = parts->objects;
    int signs = numbers[NATIVE_ARGCOUNT] | numbers[NATIVE_POSONLYARGCOUNT] | numbers[NATIVE_KWONLYARGCOUNT]
                | numbers[NATIVE_STACKSIZE] | numbers[NATIVE_FLAGS] | numbers[NATIVE_FIRSTTRACEABLE];
    if (signs < 0 || numbers[NATIVE_ARGCOUNT] < numbers[NATIVE_POSONLYARGCOUNT] || numbers[NATIVE_STACKSIZE] > INT_MAX / 16
        || parts->units <= 0 || parts->units > INT_MAX / 2 || numbers[NATIVE_FIRSTTRACEABLE] > parts->units
        || !PyTuple_CheckExact(objects[NATIVE_CONSTS]) || !PyTuple_CheckExact(objects[NATIVE_NAMES])
        || !PyTuple_CheckExact(objects[NATIVE_LOCALSPLUSNAMES]) || !PyBytes_CheckExact(objects[NATIVE_LOCALSPLUSKINDS])
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

/* dl_iterate_phdr calls this for the program itself first: does it lie where it was linked to lie, with `bytes` in it? */
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

/* The checks that every version needs. */
static const char *
check_common(struct native_layout *layout)
{
    /* Py_GetVersion: "3.11.7 (main, ...". A stable-looking file name doesn't keep anyone from loading this elsewhere. */
    char *rest = NULL;
    const char *version = Py_GetVersion();
    long major = strtol(version, &rest, 10);
    long minor = *rest == '.' ? strtol(rest + 1, &rest, 10) : -1;
    if (major != PY_MAJOR_VERSION || minor != PY_MINOR_VERSION) {
        return "interpreter of another version than the extension was compiled for";
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
#ifdef __linux__
    dl_iterate_phdr(find_in_program, &layout->fixed_types);
#endif
    layout->debug = PySys_GetObject("gettotalrefcount") != NULL;
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

/* ---- 3.12, 3.13 ---- */
#elif PY_VERSION_HEX < 0x030e0000

#if PY_VERSION_HEX < 0x030d0000

/* 3.12: Objects/codeobject.c, init_code numbers code objects from _Py_next_func_version, which no library exports. 0
   says "no number yet": a function made of such code gets its own when it is first specialised
   (Objects/funcobject.c, _PyFunction_GetVersionForCurrentState). */
static uint32_t
next_code_version(const struct native_layout *layout)
{
    (void)layout;
    return 0;
}

static const char *
check_code_version(struct native_layout *layout)
{
    (void)layout;
    return NULL;
}

#else

/* 3.13: Objects/codeobject.c, init_code. Functions take the number over (Objects/funcobject.c, PyFunction_New...), and
   those with 0 are never specialised. */
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

/* Objects/codeobject.c, init_code (3.12, 3.13). The adaptive code was prepared there by _PyCode_Quicken. */
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

const char *
native_layout_check(struct native_layout *layout)
{
    const char *reason = check_common(layout);
    if (reason == NULL) {
        reason = check_watchers(layout);
    }
    return reason == NULL ? check_code_version(layout) : reason;
}

/* ---- 3.14, 3.15: not enabled ----

   What their headers say (3.14.10, 3.15.2, GIL builds):
   - Include/cpython/code.h, _PyCode_DEF: the fields of 3.13; co_tlbc and _co_unique_id are of free-threaded builds only.
   - FRAME_SPECIALS_SIZE moved to Include/internal/pycore_interpframe.h, the interpreter's struct to
     pycore_interp_structs.h (func_state.next_version, active_code_watchers are still there).
   - Include/cpython/tupleobject.h: a tuple caches its hash, ob_hash, between ob_base and ob_item: -1 in new ones
     (decode_tuple fills what precedes ob_item; check_common's size of tuples accounts for it).
   - marshal writes slices (Python/marshal.c, TYPE_SLICE, format 5) as constants: NATIVE_SLICE is reserved for them; they
     are tracked by the collector, so tuples with slices are NATIVE_TUPLE_TRACKED.
   - Interned strings and constants: the verification at build shows whether the constructor leaves anything as 3.13
     didn't. */

#endif
#endif
