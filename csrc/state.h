/* The state of one module object `pycds_auto._loader`, and what finder and loader share of it. */
#ifndef PYCDS_STATE_H
#define PYCDS_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "native_decode.h"
#include "native_layout.h"
#include "results.h"
#include "session.h"

/* The native encoding in this interpreter: see decode_native() in archive_loader.c. */
struct native_use {
    enum { NATIVE_DUE, NATIVE_OPEN, NATIVE_REFUSED } progress;
#if NATIVE_SUPPORTED
    struct native_context context; /* if open */
    unsigned char *decoded; /* a bit for each module of the image; owned */
#endif
};

/* A class of importlib whose methods our shortcuts stand in for. While its version tag is the one of the last check,
   nothing in it was replaced (CPython sets a new tag at every change: Objects/typeobject.c, PyType_Modified). */
struct guarded_type {
    PyTypeObject *type; /* owned */
    unsigned int checked_tag; /* 0: to be checked */
};

enum guarded_index {
    GUARDED_PATH_FINDER,
    GUARDED_FILE_FINDER,
    GUARDED_FILE_LOADER,
    GUARDED_SOURCE_LOADER,
    GUARDED_SOURCE_FILE_LOADER,
    GUARDED_TYPES,
};

#define GUARDED_ATTRIBUTES 28

/* A class of importlib._bootstrap's that our shortcuts do without, and its attributes at a program's first look-up. */
#define GUARDED_HELPERS 6
struct guarded_helper {
    PyTypeObject *type; /* owned; NULL: this version has none */
    PyObject *expected; /* owned dict */
    unsigned int checked_tag; /* 0: to be checked */
};

/* What an attribute of a guarded class was at activation; NULL: it was not there. */
struct guarded_attribute {
    enum guarded_index owner;
    PyObject *name; /* owned, interned */
    PyObject *original; /* owned */
};

/* A namespace in which importlib finds what it calls, and what was there at a program's first look-up. While the
   dictionary's version is the one of the last check, nothing in it was replaced. */
#define GUARDED_NAMESPACES 8

struct guarded_namespace {
    PyObject *dictionary; /* owned */
    PyObject *expected; /* owned dict */
    bool is_whole; /* all names count, not only those that are expected */
    Py_ssize_t count; /* of these names */
    uint64_t checked_version; /* 0: to be checked */
    struct native_places places; /* what there is instead where there are no versions */
};

/* The strings that we look things up with. */
struct interned {
    PyObject *path, *name, *loaders, *origin, *loader, *set_fileattr, *cached, *locations, *find_spec,
        *get_code, *cache_tag, *path_cache, *path_mtime, *re, *loader_state, *uninitialized_submodules, *pycache_prefix,
        *implementation, *meta_path, *modules, *path_hooks, *path_importer_cache,
        *standard_output, *standard_error, *fill_cache, *get_spec, *dunder_class;
};

/* shortcuts.c: what of importlib._bootstrap was replaced, and what its replacements need; all owned. */
#define SHORTCUT_THREAD_FUNCTIONS 3

struct shortcut_strings {
    PyObject *thread, *of_thread[SHORTCUT_THREAD_FUNCTIONS];
    PyObject *dunder_name, *dunder_loader, *dunder_package, *dunder_spec, *dunder_path, *dunder_file, *dunder_cached;
};

#define SHORTCUT_FINDERS 2
#define FOREIGN_CODES 4

/* foreign_finder.c: the find_spec of a finder of the program's. */
struct foreign_code {
    const void *address; /* of its code object; only compared: if it isn't a known one, another may be there by now */
    PyObject *code; /* owned; NULL: not a known one */
    int kind;
};

struct shortcuts {
    bool tried, installed;
    bool aside; /* installed, but what was replaced is back for the time being */
    PyObject *globals; /* dictionary of importlib._bootstrap */
    PyObject *plain_manager, *plain_init_module_attrs, *plain_find_spec, *plain_handle_fromlist; /* what was replaced */
    PyTypeObject *reference_type; /* of what stands in module_locks for our managers */
    PyObject *find_and_load; /* 3.15: its code object */
    PyObject *entered; /* borrowed: the name of the module whose lock was taken last, and nothing was done since */
    unsigned long entered_by; /* thread */
    PyObject *get_module_lock, *module_locks, *lock_type; /* importlib._bootstrap's */
    PyObject *thread, *of_thread[SHORTCUT_THREAD_FUNCTIONS]; /* its module _thread, and what _ModuleLock uses of that */
    PyObject *is_builtin, *find_frozen, *acquire_lock, *release_lock, *lock_held; /* _imp's */
    struct guarded_type spec_type, finder_types[SHORTCUT_FINDERS];
    struct foreign_code foreign[FOREIGN_CODES];
    struct shortcut_strings strings;
};

#define PATTERN_MODULES 5
#define PATTERN_DICTIONARIES 40

/* patterns.c: what of the package `re` was replaced, and what is watched; all objects owned. */
struct patterns {
    bool tried; /* to put ours in place, once `re` was there */
    bool serves; /* the package came from the image, so that its entries are good */
    bool aside; /* the plain function is back for the time being */
    bool looks_for_codecs; /* development mode, or a debug build */
    struct result_notes notes;
    PyObject *compiler; /* dictionary of re._compiler */
    PyObject *function, *plain_compile; /* ours, and what it replaced */
    PyObject *sre_compile; /* _sre.compile */
    int watched_count;
    PyObject *watched[PATTERN_DICTIONARIES]; /* dictionaries that have to stay as they are */
    PyObject *pairs[PATTERN_DICTIONARIES]; /* their keys and values in turn, as tuples */
};

struct class_strings {
    PyObject *module, *name, *qualname, *doc, *new, *init_subclass, *class_getitem, *classcell, *classdictcell, *slots,
        *set_name, *mro, *hash, *dict, *weakref;
};

#define CLASSES_MODELS 64

/* What subclasses of a type are like. */
struct class_model {
    PyTypeObject *base; /* borrowed; one on the heap is only compared */
    PyHeapTypeObject *model; /* owned: a copy of a class whose base it is */
    unsigned int tag; /* the base's version tag then; of static types it doesn't matter */
};

#define CLASS_NAMES 256 /* twice as many as there are */
#define CLASS_TYPES 32

struct class_name {
    PyObject *name; /* owned, interned */
    int meaning; /* class_slots_name */
};

/* A type that has no __set_name__, while it has this version tag. */
struct class_type {
    const PyTypeObject *type; /* compared only */
    unsigned int tag;
};

/* classes.c: what new classes are made after; objects owned. */
struct classes {
    bool tried;
    struct class_name names[CLASS_NAMES]; /* known by their address */
    struct class_type silent[CLASS_TYPES];
    PyHeapTypeObject *object_model; /* owned: a copy of a class whose base is object */
    PyHeapTypeObject *special_model; /* owned: a copy of one that has all special methods */
    PyGetSetDef *dictionary_getset, *references_getset; /* the interpreter's, of classes that add only one of the two */
    PyObject *dictionary_descriptor, *references_descriptor; /* owned: those of all classes, where classes share them */
    PyCFunction new_wrapper; /* the function behind object.__new__ and its like */
    int model_count;
    struct class_model models[CLASSES_MODELS];
    PyObject *object_bases; /* (object,) */
    PyObject *plain_mro; /* type.mro */
    struct class_strings strings;
};

/* sources.c; all objects owned. */
struct sources {
    bool serves; /* what the interpreter's own objects are is known, so that entries can be used */
    bool tried; /* to find that out */
    bool has_ast_types; /* compile() was called */
    bool interrupted; /* a KeyboardInterrupt may have left its mark on the runtime */
    struct result_notes notes;
    unsigned int missed; /* in a row, weighted */
    uint64_t modules_then; /* modules that had been looked up at the last miss */
    PyObject *module_locks; /* importlib._bootstrap's */
    PyObject *file; /* the "<string>" that exec and eval put into code objects */
    PyObject *names; /* tuple of the names that the compiler gives, "<lambda>" and the like */
};

/* What we know of one path entry, that is, of one FileFinder in sys.path_importer_cache. */
struct path_entry {
    PyObject *finder; /* owned */
    PyObject *finder_path; /* owned: its `path` when we looked */
    PyObject *loaders; /* owned: its list `_loaders`; the items are as those of state->standard_loaders */
    PyObject *loader_items; /* owned: tuple of the items when we looked */
    char *path; /* owned, utf-8, no trailing slash; NULL: always ask the finder */
    size_t path_bytes;
    const struct directory_record *directory; /* NULL: always ask the finder */
    const struct listing *listing;
    bool proved; /* its listing was proved in this process, once at least */
    bool finder_behind; /* proved, and its FileFinder was not told what plain Python's would know by now */
    bool noted; /* recorded as a miss already */
};

typedef struct {
    struct session *session; /* NULL until something asked; see `session_is_armed` for who frees it */
    bool session_is_armed; /* the end of the process frees it */
    bool activated;
    PyObject *module; /* borrowed: this module */
    PyObject *finder_type; /* owned */
    PyObject *loader_type; /* owned; NULL until loader_type() */
    PyTypeObject *stand_in_type; /* owned; NULL until stand_in_new() */
    enum { PREPARATION_DUE, PREPARATION_DONE, PREPARATION_FAILED } preparation; /* see prepare_search() */
    bool installed; /* the finder was put into sys.meta_path, which owns it: a reference here would be a cycle */

    /* importlib, as found at the first look-up (path_finder: at activation); all owned */
    PyObject *path_finder, *file_finder, *source_file_loader, *extension_file_loader, *module_spec, *namespace_path,
        *zipimporter, *plain_path_importer_cache, *plain_get_spec, *file_finder_find_spec;
    PyObject *cache_tag; /* owned: sys.implementation.cache_tag */
    PyObject *system; /* owned: the dictionary of sys; NULL until prepare_search() */
    PyObject *library; /* owned: sys._stdlib_dir as it was then; NULL: there was none */
    PyObject *standard_loaders; /* list of (suffix, loader), as FileFinder._loaders */
    PyObject *loader_details; /* tuple of (loader, [suffixes]), FileFinder's arguments behind the path */
    PyObject *standard_hook; /* the interpreter's FileFinder hook of sys.path_hooks */
    size_t extension_suffix_count;
    char extension_suffixes[8][64];

    struct guarded_type guarded[GUARDED_TYPES];
    struct guarded_attribute attributes[GUARDED_ATTRIBUTES];
    size_t attribute_count;
    struct guarded_namespace namespaces[GUARDED_NAMESPACES];
    struct guarded_helper helpers[GUARDED_HELPERS];
    enum { NAMESPACES_DUE, NAMESPACES_KNOWN, NAMESPACES_FOREIGN } namespaces_are;
    bool versions_tell_changes; /* dictionaries have versions */
    struct interned strings;

    struct native_use native;
    struct shortcuts shortcuts;
    struct patterns patterns;
    struct classes classes;
    struct sources sources;

    enum { OBSERVERS_DUE, OBSERVERS_KNOWN, OBSERVERS_UNKNOWN } observers; /* can native_is_observed() be asked? */

    /* finalization.h */
    enum { END_DUE, END_ARMED, END_AS_EVER } end; /* of the process: may objects be left to the system? */
    bool hook_is_watched;
    PyObject *hook_reference; /* owned: weak reference to sys.__interactivehook__, with a callback; or NULL */

    /* The source that was found last, by an import that goes on to load it: spares its loader a stat. */
    struct {
        PyObject *loader; /* owned; NULL: none */
        struct stat status;
    } found;

    /* path entries met so far: finder -> index into the array */
    PyObject *entry_index; /* owned dict */
    struct path_entry *entries; /* owned */
    size_t entry_count, entry_capacity;
    bool finders_are_behind; /* finder_behind of one of them at least */
    size_t current_directory; /* index + 1 of the entry that "" in sys.path stood for last */
} loader_state;

/* A module that is in sys.modules since start-up. New reference; NULL: exception. Not an import: that would run
   whatever a program put in place of __import__. */
PyObject *loaded_module(const char *name);

#define RET_OK 0
#define RET_ERROR (-1)

/* A call that we pass on takes no more of the recursion limit than if we had not been called: between these two. 3.11
   counts calls of C functions, too (Objects/call.c, Objects/methodobject.c); later versions count them apart, against
   thousands. False: an exception. */
static inline void
leave_call(void)
{
#if PY_VERSION_HEX < 0x030c0000
    Py_LeaveRecursiveCall();
#endif
}

static inline bool
enter_call(void)
{
#if PY_VERSION_HEX < 0x030c0000
    return Py_EnterRecursiveCall("") == 0; /* we were that deep when we were called */
#else
    return true;
#endif
}

/* Fills the importlib part of the state. RET_OK; RET_ERROR with an exception, or without one and with *reason set when
   importlib is not as CPython made it. */
int guard_importlib(loader_state *state, const char **reason);

/* sys.flags.<name> as an int; 0 if it cannot be had. */
long system_flag(const char *name);

/* An object of sys, as PySys_GetObject, which makes a str of the name each time. Borrowed; NULL without an exception.
   Needs prepare_search(). */
static inline PyObject *
system_object(loader_state *state, PyObject *name)
{
    PyObject *object = PyDict_GetItemWithError(state->system, name);
    if (object == NULL) {
        PyErr_Clear();
    }
    return object;
}

/* Makes ready for searching at the first look-up that needs it: an empty run does not. False: it could not be, and the
   session says why. Leaves no exception. */
bool prepare_search(loader_state *state);

/* Is everything our shortcuts stand in for still what it was? */
bool importlib_is_untouched(loader_state *state);

/* Are the functions and classes of builtins that importlib and re name what they were? */
bool builtins_are_untouched(loader_state *state);

/* finder.c: what importlib.util.cache_from_source says of a source, as a str. New reference; NULL without an exception
   where that isn't known: a prefix is set, for one. */
PyObject *finder_cached_path(loader_state *state, PyObject *origin);

/* finder.c: the finder's find_spec(name, path). `directly`: what it finds is loaded next, nothing else runs before.
   *absent, if asked for: it is proved that PathFinder would find nothing. */
PyObject *finder_find(
    loader_state *state, PyObject *finder, PyObject *name, PyObject *path, bool directly, bool *absent);

/* Is there something that would tell by which way an import is made: audit hooks, profilers, tracers, tracemalloc, a
   near recursion limit? Then everything goes the ordinary way, too. */
bool import_is_observed(loader_state *state);

/* finder.c: the finder's type. New reference. */
PyObject *make_finder_type(PyObject *module);

/* archive_loader.c: the class of the loader of hits, made when the first one is needed. Borrowed. */
PyObject *loader_type(loader_state *state);

/* archive_loader.c: frees what the decoder keeps, but for the objects that it made. */
void loader_clear(loader_state *state);

/* Forgets the path entries. */
void finder_clear(loader_state *state);
int finder_traverse(loader_state *state, visitproc visit, void *arg);

#endif
