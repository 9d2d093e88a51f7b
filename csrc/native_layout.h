/* What differs between CPython versions in the objects that the native decoder makes: everything of it is here and in
   native_layout.c, a section for each version that brought something new. The extension is compiled for one exact minor
   version; whether the running interpreter is laid out as its headers said is checked at run time
   (native_layout_check), and where anything is off the caller uses the `marshal` encoding instead.

   A new version is a new section in both files: heads of objects here; fill, difference and check of code objects
   there. The decoder and the encoder ask for no version.

   Include after Python.h. Defines Py_BUILD_CORE for the internal headers, so it comes first in the files that need
   it. */
#ifndef PYCDS_NATIVE_LAYOUT_H
#define PYCDS_NATIVE_LAYOUT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

/* Is there a section for this version? GIL builds with plain object headers on 64-bit little-endian machines only.
   PYCDS_MARSHAL_ONLY: built as for a version without one, to test that. */
#if !defined(PYCDS_MARSHAL_ONLY) && PY_VERSION_HEX >= 0x030b0000 && PY_VERSION_HEX < 0x03100000                        \
    && !defined(Py_GIL_DISABLED) && !defined(Py_TRACE_REFS) && !defined(PYPY_VERSION) && SIZEOF_VOID_P == 8            \
    && PY_LITTLE_ENDIAN
#define NATIVE_SUPPORTED 1
#else
#define NATIVE_SUPPORTED 0
#define NATIVE_UNSUPPORTED "how this interpreter lays out code objects is not known to this release"
#endif

/* Are re, the collector and the ways in which exec, eval and compile treat a text the ones that patterns.c, postponed
   collections and sources.c follow, and importlib the one that shortcuts.c follows? Without, there are the archive and
   the finder. */
#define ACCELERATIONS_SUPPORTED (NATIVE_SUPPORTED || PY_VERSION_HEX < 0x030f0000)

/* Has the collector generations? 3.14 began with another one than it went on with, from 3.14.5 on (gh-142516): that of
   3.13, in a structure of the same size. */
#define NATIVE_KNOWS_COLLECTOR                                                                                         \
    (NATIVE_SUPPORTED && (PY_VERSION_HEX < 0x030e0000 || PY_VERSION_HEX >= 0x030e05f0))

/* foreign_finder.c: has it fingerprints of code objects of this release, and in which place? */
#if NATIVE_SUPPORTED
#define FOREIGN_FINDERS_KNOWN 1
#define FOREIGN_FINDER_RELEASE (((PY_VERSION_HEX >> 16) & 0xff) - 11)
#else
#define FOREIGN_FINDERS_KNOWN 0
#endif

#if NATIVE_SUPPORTED

/* ---- heads of objects ---- */

/* For each version:
   NATIVE_REFCOUNT            what the count of references of an object in the arena starts with
   NATIVE_COUNTS_IMMORTAL     does taking a reference to an immortal object write to it? Then what is used in the
                              mapping had better not be given references: each first one is a page to copy
   native_set_immortal        gives an object that count
   native_is_immortal         is it an object that had it, whatever became of its count since?
   native_keep_forever        an object whose references nobody counts any more: the slots of an image hold it
   native_claim_interned      an interned string is the arena's: the interpreter must not free it at its end
   native_is_static           is an interned string one that the interpreter contains? It has them in a table of their
                              own then
   native_mark_interned       what an interned string of the arena looks like
   native_claim_string        what an ASCII string's head in the arena has beyond any other's
   native_set_tuple_size      fills what a tuple's head has beyond any object's */

/* 3.11: every reference of every object is counted (Include/object.h, Py_INCREF, Py_DECREF): a count that no program
   can bring to zero stands for immortality. Half of the range is left in either direction. At the end the interpreter
   gives interned strings back only the two references that it took (Objects/unicodeobject.c,
   _PyUnicode_ClearInterned). */
#if PY_VERSION_HEX < 0x030c0000

#define NATIVE_REFCOUNT ((Py_ssize_t)1 << 60)
#define NATIVE_COUNTS_IMMORTAL 1

static inline void
native_set_immortal(PyObject *object)
{
    object->ob_refcnt = NATIVE_REFCOUNT;
}

static inline bool
native_is_immortal(PyObject *object)
{
    return object->ob_refcnt > NATIVE_REFCOUNT / 2 && object->ob_refcnt < NATIVE_REFCOUNT + NATIVE_REFCOUNT / 2;
}

static inline void
native_keep_forever(PyObject *object)
{
    if (object->ob_refcnt < NATIVE_REFCOUNT / 2) {
        object->ob_refcnt += NATIVE_REFCOUNT;
    }
}

static inline void
native_claim_interned(PyObject *text)
{
    (void)text;
}

static inline bool
native_is_static(PyObject *text)
{
    (void)text;
    return false;
}

static inline void
native_claim_string(PyASCIIObject *head)
{
    (void)head;
}

static inline void
native_set_tuple_size(PyTupleObject *tuple, Py_ssize_t size)
{
    ((PyVarObject *)tuple)->ob_size = size;
}

/* From 3.12 on. Objects that aren't immortal keep the reference that they were made with. Immortal interned strings:
   Objects/unicodeobject.c, _PyUnicode_ClearInterned, makes them mortal and frees them at the interpreter's end in debug
   builds (3.12, 3.13) and in all builds (from 3.14 on, gh-113601), except those of which `interned` says that they lie
   in the interpreter itself; nothing else depends on that difference. */
#else

static inline void
native_keep_forever(PyObject *object)
{
    (void)object;
}

/* 3.12, 3.13: Include/object.h, _Py_IMMORTAL_REFCNT. */
#if PY_VERSION_HEX < 0x030e0000

#define NATIVE_REFCOUNT _Py_IMMORTAL_REFCNT
#define NATIVE_COUNTS_IMMORTAL 0

static inline void
native_set_immortal(PyObject *object)
{
    object->ob_refcnt = NATIVE_REFCOUNT;
}

static inline bool
native_is_immortal(PyObject *object)
{
    return object->ob_refcnt == NATIVE_REFCOUNT;
}

static inline void
native_mark_interned(PyObject *text)
{
    ((PyASCIIObject *)text)->state.interned = SSTATE_INTERNED_IMMORTAL_STATIC;
}

static inline bool
native_is_static(PyObject *text)
{
    return ((PyASCIIObject *)text)->state.statically_allocated;
}

static inline void
native_claim_string(PyASCIIObject *head)
{
    (void)head;
}

static inline void
native_set_tuple_size(PyTupleObject *tuple, Py_ssize_t size)
{
    ((PyVarObject *)tuple)->ob_size = size;
}

/* 3.14, 3.15: Include/refcount.h. LOAD_CONST becomes LOAD_CONST_IMMORTAL or LOAD_CONST_MORTAL (Python/bytecodes.c),
   which dis.dis(adaptive=True) shows. So constants that marshal makes are not the interpreter's immortal objects
   here either: their count, of 32 bits, is one that no program brings to zero. Beyond 2**31 it would make them
   immortal. Interned strings that marshal reads are, with flags beside the count in the same word, as in
   Objects/object.c, _Py_SetImmortalUntracked. Other strings may become interned (sys.intern) and immortal (marshal)
   later; of these the interpreter frees at its end all but those that are statically allocated (unicode_dealloc),
   which is all that depends on that flag of a string. Tuples cache their hash (Include/cpython/tupleobject.h,
   ob_hash). */
#else

#define NATIVE_REFCOUNT ((PY_UINT32_T)1 << 30)
#define NATIVE_COUNTS_IMMORTAL 1

static inline void
native_set_immortal(PyObject *object)
{
    object->ob_refcnt_full = (int64_t)NATIVE_REFCOUNT;
}

static inline bool
native_is_immortal(PyObject *object)
{
    return object->ob_refcnt > NATIVE_REFCOUNT / 2 && object->ob_refcnt < NATIVE_REFCOUNT + NATIVE_REFCOUNT / 2;
}

static inline void
native_mark_interned(PyObject *text)
{
    text->ob_refcnt_full = (int64_t)(_Py_IMMORTAL_INITIAL_REFCNT | (uint64_t)_Py_IMMORTAL_FLAGS << 48);
    ((PyASCIIObject *)text)->state.interned = SSTATE_INTERNED_IMMORTAL_STATIC;
}

static inline bool
native_is_static(PyObject *text)
{
    return _Py_IsStaticImmortal(text);
}

static inline void
native_claim_string(PyASCIIObject *head)
{
    head->state.statically_allocated = 1;
}

static inline void
native_set_tuple_size(PyTupleObject *tuple, Py_ssize_t size)
{
    ((PyVarObject *)tuple)->ob_size = size;
    tuple->ob_hash = -1;
}

#endif

static inline void
native_claim_interned(PyObject *text)
{
    if (PyUnicode_CHECK_INTERNED(text)) { /* it isn't, where memory was short */
        native_mark_interned(text);
    }
}

#endif

/* ---- code objects ---- */

/* A code object's parts, in the order in which marshal has them (Python/marshal.c, TYPE_CODE, 3.11 to 3.15). */
enum native_code_number {
    NATIVE_ARGCOUNT,
    NATIVE_POSONLYARGCOUNT,
    NATIVE_KWONLYARGCOUNT,
    NATIVE_STACKSIZE,
    NATIVE_FLAGS,
    NATIVE_FIRSTLINENO,
    NATIVE_FIRSTTRACEABLE, /* index of the code unit; not in marshal */
    NATIVE_CODE_NUMBERS,
};

enum native_code_object {
    NATIVE_CONSTS,
    NATIVE_NAMES,
    NATIVE_LOCALSPLUSNAMES,
    NATIVE_LOCALSPLUSKINDS,
    NATIVE_FILENAME,
    NATIVE_NAME,
    NATIVE_QUALNAME,
    NATIVE_LINETABLE,
    NATIVE_EXCEPTIONTABLE,
    NATIVE_CODE_OBJECTS,
};

struct native_code_parts {
    int numbers[NATIVE_CODE_NUMBERS];
    Py_ssize_t units; /* code units in adaptive form, as the constructor makes them; in the object */
    PyObject *objects[NATIVE_CODE_OBJECTS];
};

/* The state of the interpreter that new code objects need. */
struct native_layout {
    PyInterpreterState *interpreter;
    bool fixed_types; /* the types of constants have the same addresses in every process of this interpreter */
    bool collector_is_known; /* its state is where it is expected */
    int young_threshold; /* of the collector when it was looked at; 0: leave the collector alone */
    bool single_bytes; /* marshal gives the interpreter's own objects for bytes of one character (3.14 on) */
    bool debug; /* a Py_DEBUG interpreter: it wants no immortal strings that aren't its own */
    PyObject *interned; /* borrowed: the interpreter's dictionary of interned strings, without static ones; or NULL */
};

/* Interns a string in the arena that is none of the interpreter's static strings, as PyUnicode_InternInPlace does,
   which would search for it among those first: a tenth of what a load costs (3.12, 3.13). Borrowed: the string itself,
   or the one that was there; NULL without an exception: not known. */
static inline PyObject *
native_intern(const struct native_layout *layout, PyObject *text)
{
#if PY_VERSION_HEX < 0x030c0000
    (void)layout, (void)text;
    return NULL;
#else
    PyObject *known = layout->interned == NULL ? NULL : PyDict_SetDefault(layout->interned, text, text);
    if (known == text) {
        native_mark_interned(text);
    }
    else if (known == NULL) {
        PyErr_Clear();
    }
    return known;
#endif
}

/* Interns a string as marshal does: from 3.14 on, where other strings stay mortal, the interpreter's string becomes an
   immortal one. */
void native_intern_in_place(const struct native_layout *layout, PyObject **text);

#define NATIVE_CODE_HEAD offsetof(PyCodeObject, co_code_adaptive)
#define NATIVE_UNIT_BYTES 2

/* Fills a code object in memory of NATIVE_CODE_HEAD + NATIVE_UNIT_BYTES * units bytes; its code units are filled
   already. Takes over the references in `parts`. False: the parts don't fit together, nothing was filled. Never
   raises. */
bool native_code_fill(const struct native_layout *layout, PyCodeObject *code, const struct native_code_parts *parts);

/* The parts of a code object that was never executed; borrowed. */
void native_code_take_apart(PyCodeObject *code, struct native_code_parts *parts);

/* Compares the fields that are no objects, of two code objects that were never executed. NULL, or what differs. */
const char *native_code_difference(PyCodeObject *one, PyCodeObject *other);

/* May code objects be made now? False while something watches them being made. */
bool native_layout_may_make_code(const struct native_layout *layout);

/* Puts the next automatic collection off, for as many allocations as an import may make before the next one. Nothing
   that an import allocates is garbage, so collecting is a cost without a result (5 to 10 % of an import).

   The count of allocations is set back, below zero, and not the threshold up: there is nothing to restore then,
   whatever happens to the import. gc.get_threshold(), disable() and freeze() in a module body are as ever, a collection
   that is asked for sets the count to zero as ever, and a program that runs on inside an import (a server) gets its
   collections after one late one. gc.set_threshold() sets the count to what was allocated since, and gc.get_count()
   says at least zero: ours stand behind both. Does nothing where that can't be, where the collector is off, or where
   the program set a threshold of its own. */
void native_layout_postpone_collection(const struct native_layout *layout);

/* Checks that the running interpreter is laid out as this extension was compiled for; fills *layout. NULL, or a reason
   (static text). Cheap: a few objects are made. Never raises. */
const char *native_layout_check(struct native_layout *layout);

/* ---- classes (classes.h): 3.11 to 3.15 ----

   CLASSES_VERSION_FLAGS      flags that come and go with look-ups
   CLASSES_TAGS_ARE_FLAGGED   does one of these say that tp_version_tag is good? If not, it is 0 when it isn't
   CLASSES_MEMBER_TYPE        of members that __slots__ declare
   CLASSES_BUFFER_SLOTS       are __buffer__ and __release_buffer__ special methods (PEP 688)?
   CLASSES_DICTIONARY_CELL    does type_new take __classdictcell__ out of the namespace (PEP 695)?
   CLASSES_KEEP_METHODS       does a slot stay as inherited if the method found is a method descriptor of its function?
   CLASSES_SHARE_DESCRIPTORS  are __dict__ and __weakref__ of all classes the same two objects, which type_new puts into
                              the namespace, behind all else of the program's?
   CLASSES_KEEP_NO_SLOTS      has ht_slots an empty tuple for no members, rather than nothing?
   CLASSES_ALLOCATE_DOCUMENTATION  what type_dealloc frees tp_doc with has this to go with it */
#if PY_VERSION_HEX < 0x03100000
#define CLASSES_SUPPORTED 1
#define CLASSES_VERSION_FLAGS Py_TPFLAGS_VALID_VERSION_TAG

#if PY_VERSION_HEX < 0x030c0000
#include <structmember.h>
#define CLASSES_BUFFER_SLOTS 0
#define CLASSES_DICTIONARY_CELL 0
#define CLASSES_MEMBER_TYPE T_OBJECT_EX
#else
#define CLASSES_BUFFER_SLOTS 1
#define CLASSES_DICTIONARY_CELL 1
#define CLASSES_MEMBER_TYPE Py_T_OBJECT_EX
#endif

#if PY_VERSION_HEX < 0x030d0000
#define CLASSES_ALLOCATE_DOCUMENTATION PyObject_Malloc
#define CLASSES_TAGS_ARE_FLAGGED 1
#else
#define CLASSES_ALLOCATE_DOCUMENTATION PyMem_Malloc
#define CLASSES_TAGS_ARE_FLAGGED 0
#endif

#define CLASSES_KEEP_METHODS (PY_VERSION_HEX >= 0x030e0000)
#define CLASSES_KEEP_NO_SLOTS (PY_VERSION_HEX < 0x030f0000)
#define CLASSES_SHARE_DESCRIPTORS (PY_VERSION_HEX >= 0x030f0000)

/* Have instances of a type more in them than those of its base (extra_ivars, 3.11; shape_differs)? *known: can it be
   told? */
bool classes_extends(const PyTypeObject *type, const PyTypeObject *base, bool *known);

/* Gives instances of a new class, whose sizes are set, a dictionary and weak references (type_new_descriptors). */
void classes_add_to_instances(PyTypeObject *type, bool dictionary, bool references);

/* The attributes of a type without tp_dict: of a static one, from 3.12 on. New reference, or NULL. */
PyObject *classes_interpreters_attributes(PyTypeObject *type);

/* What type_new_set_names makes of an exception of an attribute's __set_name__. */
void classes_explain_set_name(PyTypeObject *type, PyObject *name, PyObject *attribute);

#endif

/* ---- attributes ---- */

/* An attribute that may be missing: 1 and a new reference; 0 and NULL; -1 with an exception. */
static inline int
native_optional_attribute(PyObject *object, PyObject *name, PyObject **value)
{
#if PY_VERSION_HEX < 0x030d0000
    return _PyObject_LookupAttr(object, name, value);
#else
    return PyObject_GetOptionalAttr(object, name, value);
#endif
}

/* Are all keys of a dictionary exact strings? Then looking one up runs nothing of the program's. Quick in nearly all
   cases. */
bool native_has_plain_keys(PyObject *dictionary);

/* Has a tool of sys.monitoring asked for events of this code object? Or of all: then it has been run since. */
static inline bool
native_code_is_monitored(const PyCodeObject *code)
{
#if PY_VERSION_HEX < 0x030c0000
    (void)code;
    return false;
#else
    return code->_co_monitoring != NULL; /* Python/instrumentation.c, 3.12 and 3.13: made with the first event */
#endif
}

/* ---- what looks on at an import ---- */

/* Is what native_is_observed() reads where it is expected? Cheap; never raises. */
bool native_can_tell_observers(void);

/* Would something tell by which way an import is made? An audit hook (of the interpreter or of all); a profiler, tracer
   or tool of sys.monitoring; a recursion limit so near that the frames of importlib might not fit. Reads a few
   fields. */
bool native_is_observed(void);

/* ---- the end of the process (finalization.h): 3.11 to 3.15 ---- */
#if NATIVE_KNOWS_COLLECTOR
#define NATIVE_KNOWS_FINALIZATION 1

/* Is an object of a type that takes part in garbage collection in one of the collector's lists (PyObject_GC_IsTracked)?
   The collector's head lies directly before the object (Include/internal/pycore_gc.h, PyGC_Head). */
static inline bool
native_is_tracked(PyObject *object)
{
    return ((uintptr_t *)object)[-2] != 0;
}

/* Is this the end of an ordinary run: the only interpreter with its only thread, no Python frame, an idle collector
   that tells nobody anything, no debugging aid, and nothing that looks on at objects, classes, functions or frames?
   Asked while the interpreter is being finalised. */
bool native_end_is_ordinary(const struct native_layout *layout);

/* Calls for every object in the collector's lists, for some newest ones twice, until a call returns false; that is the
   result then. Objects may neither be made nor freed meanwhile. */
bool native_each_tracked(
    const struct native_layout *layout, bool (*call)(PyObject *object, void *argument), void *argument);

/* 3.11 keeps a copy of the dictionary of sys as it was before site ran, and in it the first sys.meta_path
   (Python/import.c, fix_up_extension: m_copy); that list is freed when the modules are gone. */
#define NATIVE_SYS_HAS_COPY (PY_VERSION_HEX < 0x030c0000)

/* What nothing in the collector's lists leads to, and the interpreter holds: the dictionaries of the thread, with what
   _thread._local keeps in it, and of the interpreter. Borrowed, or NULL. */
void native_roots(const struct native_layout *layout, PyObject *roots[2]);

/* What an object of _thread._localdummy holds (borrowed): a dictionary, or None if it holds nothing; NULL: it isn't
   laid out as expected. */
PyObject *native_thread_locals(PyObject *dummy);

/* The values of an exact dictionary: some of the places are NULL. */
struct native_values {
    PyObject **first;
    Py_ssize_t count, stride; /* the next one is that many places on */
    PyObject **keys; /* in the same steps; NULL: all keys are exact str */
};
void native_dictionary_values(PyObject *dictionary, struct native_values *values);

/* A function's __type_params__ (borrowed), or NULL. */
static inline PyObject *
native_type_parameters(PyFunctionObject *function)
{
#if PY_VERSION_HEX < 0x030c0000
    (void)function;
    return NULL;
#else
    return function->func_typeparams;
#endif
}

/* What makes a function's annotations (PEP 649; borrowed), or NULL. */
static inline PyObject *
native_annotate(PyFunctionObject *function)
{
#if PY_VERSION_HEX < 0x030e0000
    (void)function;
    return NULL;
#else
    return function->func_annotate;
#endif
}

/* Have weak containers a list of what is to be taken out of them when nobody iterates any more (Lib/_weakrefset.py and
   weakref.py)? */
#define NATIVE_CONTAINERS_WAIT (PY_VERSION_HEX < 0x030e0000)

/* Moves all objects out of reach of the collector, as gc.freeze() does. */
void native_freeze(const struct native_layout *layout);

/* Is an object of exactly _io.TextIOWrapper, BufferedReader, BufferedWriter or FileIO laid out as expected, with no
   data that wait to be written, no attributes of the program's, and no file to close? *inner is what it wraps
   (borrowed), or NULL; that needs the same look. */
bool native_stream_is_idle(PyObject *stream, PyObject **inner);

/* Did the generator or coroutine come to its end? */
bool native_generator_is_finished(PyObject *generator);

/* The name of the attribute that a method's code, of two positional arguments, sets in the first of them to a constant,
   if it does nothing else. Borrowed; NULL: other code. */
PyObject *native_code_that_marks(PyObject *code);

/* A code object's constants (borrowed). */
PyObject *native_code_constants(PyObject *code);

#else
#define NATIVE_KNOWS_FINALIZATION 0
#endif

#endif

/* ---- specs of modules, native encoding or not ----

   Are they asked for their `cached` when a module is made (Lib/importlib/_bootstrap.py, _init_module_attrs: it becomes
   the module's __cached__)? Not from 3.15 on. */
#define NATIVE_SPECS_GET_CACHED (PY_VERSION_HEX < 0x030f0000)

/* ---- importlib's ways, native encoding or not ----

   Does _find_and_load take a module's lock from _get_module_lock, instead of entering a _ModuleLockManager
   (Lib/importlib/_bootstrap.py; 3.15)? */
#define SHORTCUTS_STAND_IN_FOR_LOCKS (PY_VERSION_HEX >= 0x030f0000)

/* The level of -X importtime; 0: off, or a version without levels, whose only one changes nothing for us
   (Python/import.c; 3.14). */
static inline int
native_import_time(void)
{
    int level = 0;
#if PY_VERSION_HEX >= 0x030e0000
    if (PyConfig_GetInt("import_time", &level) != 0) {
        PyErr_Clear();
    }
#endif
    return level;
}

#if SHORTCUTS_STAND_IN_FOR_LOCKS
/* The code object that calls a class or built-in function at this moment (borrowed; the frame holds it). */
static inline PyObject *
native_calling_code(void)
{
    struct _PyInterpreterFrame *frame = PyThreadState_Get()->current_frame;
    PyObject *code = frame == NULL ? NULL : PyUnstable_InterpreterFrame_GetCode(frame);
    Py_XDECREF(code);
    return code;
}
#endif

/* Is it what stands in a module's dictionary for a name that is lazily imported (Include/internal/
   pycore_lazyimportobject.h, 3.15)? */
static inline bool
native_is_lazy(PyObject *value)
{
#if PY_VERSION_HEX >= 0x030f0000
    extern PyTypeObject PyLazyImport_Type;
    return Py_IS_TYPE(value, &PyLazyImport_Type);
#else
    (void)value;
    return false;
#endif
}

/* ---- names of PyMemberDef's constants: Python.h's own from 3.12 on (Include/descrobject.h) ---- */

#if PY_VERSION_HEX < 0x030c0000
#include <structmember.h>
#define Py_T_PYSSIZET T_PYSSIZET
#define Py_READONLY READONLY
#endif

/* ---- versions of dictionaries, native encoding or not ----

   A number that every change of a dictionary changes (Objects/dictobject.c, ma_version_tag, 3.8 to 3.13; in 3.14 it is
   gone). 0: there is none. */
static inline uint64_t
native_dictionary_version(PyObject *dictionary)
{
#if PY_VERSION_HEX < 0x030e0000
    _Py_COMP_DIAG_PUSH
    _Py_COMP_DIAG_IGNORE_DEPR_DECLS
    return ((PyDictObject *)dictionary)->ma_version_tag;
    _Py_COMP_DIAG_POP
#else
    (void)dictionary;
    return 0;
#endif
}

/* Where in its table a dictionary has some items: to look there again tells quickly whether they are what they were.
   From 3.14 on, where they have no version any more. */
#define NATIVE_REMEMBERS_PLACES (NATIVE_SUPPORTED && PY_VERSION_HEX >= 0x030e0000)

struct native_places {
    PyObject *items; /* owned: tuple of keys and values in turn; NULL: nothing is known */
    struct native_place {
        uint32_t index; /* in the table */
        bool key_only; /* whatever its value is */
    } *each; /* owned */
    const void *table;
    Py_ssize_t entries; /* of the table, used or empty */
    uint8_t table_size; /* its logarithm */
};

enum native_wish { NATIVE_NOT_WANTED, NATIVE_KEY_WANTED, NATIVE_ITEM_WANTED };

/* Takes note of the items of a dictionary that are wanted. False: its table is of another kind, or there is no
   memory; nothing is known then. Leaves no exception. */
bool native_places_take(
    struct native_places *places, PyObject *dictionary, enum native_wish (*wish)(PyObject *key, void *argument),
    void *argument);

/* Are they where they were? And, if `all`, is nothing else there? */
bool native_places_hold(const struct native_places *places, PyObject *dictionary, bool all);

/* ---- source texts (sources.h), native encoding or not ----

   Interns the name of a file as making a code object does (Objects/codeobject.c, init_code, 3.13; before, it does not):
   like other interned strings of programs it is freed with its last reference. */
void native_layout_intern_file_name(PyObject **name);

/* How often the compiler makes a constant set anew at most (sources.c): up to 3.13, where the syntax tree is folded,
   once more. */
#define NATIVE_SET_COPIES (PY_VERSION_HEX < 0x030e0000 ? 3 : 2)

/* Gives code that marshal has just made kinds of local variables of its own, as the compiler makes them
   (Python/assemble.c, makecode: PyBytes_FromStringAndSize(NULL, size)). A single one that marshal reads is the
   interpreter's own object, from 3.14 on; marshal.dumps tells them apart. */
void native_layout_own_kinds(PyObject *code);

/* The interned string that is equal to an exact str which isn't interned. New reference; NULL without an exception:
   there is none, or it can't be told; none is interned by the question. */
PyObject *native_layout_known_string(PyObject *text);

#endif
