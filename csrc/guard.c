/* Our shortcuts stand in for methods of importlib. This file takes note of those methods, and of what they call, and
   tells when a program has replaced something, or looks on while they run: then everything goes the ordinary way. */
#include "state.h"

#include <string.h>

#include "native_layout.h"
#include "shortcuts.h"

#define BOOTSTRAP_FILES "<frozen importlib._bootstrap" /* the start of both */
#define EXTERNAL_FILE "<frozen importlib._bootstrap_external>"

static const struct {
    enum guarded_index owner;
    const char *name;
    bool expected; /* false: must not be there (a subclass that starts to override) */
} watched[] = {
    {GUARDED_PATH_FINDER, "find_spec", true},
    {GUARDED_PATH_FINDER, "_get_spec", true},
    {GUARDED_PATH_FINDER, "_path_importer_cache", true},
    {GUARDED_PATH_FINDER, "_path_hooks", true},
    {GUARDED_FILE_FINDER, "__init__", true},
    {GUARDED_FILE_FINDER, "find_spec", true},
    {GUARDED_FILE_FINDER, "_get_spec", true},
    {GUARDED_FILE_FINDER, "_fill_cache", true},
    {GUARDED_FILE_FINDER, "path_hook", true},
    {GUARDED_FILE_FINDER, "__getattribute__", false},
    {GUARDED_FILE_FINDER, "__getattr__", false},
    {GUARDED_FILE_LOADER, "__init__", true},
    {GUARDED_FILE_LOADER, "get_filename", true},
    {GUARDED_FILE_LOADER, "get_data", true},
    {GUARDED_SOURCE_LOADER, "get_code", true},
    {GUARDED_SOURCE_LOADER, "source_to_code", true},
    {GUARDED_SOURCE_FILE_LOADER, "path_stats", true},
    {GUARDED_SOURCE_FILE_LOADER, "_cache_bytecode", true},
    {GUARDED_SOURCE_FILE_LOADER, "__init__", false},
    {GUARDED_SOURCE_FILE_LOADER, "get_code", false},
    {GUARDED_SOURCE_FILE_LOADER, "get_filename", false},
    {GUARDED_SOURCE_FILE_LOADER, "get_data", false},
    {GUARDED_SOURCE_FILE_LOADER, "source_to_code", false},
    {GUARDED_SOURCE_FILE_LOADER, "__setattr__", false},
    {GUARDED_FILE_LOADER, "__setattr__", false},
    {GUARDED_SOURCE_LOADER, "__setattr__", false},
};
_Static_assert(sizeof(watched) / sizeof(watched[0]) <= GUARDED_ATTRIBUTES, "GUARDED_ATTRIBUTES is too small");

/* The namespaces in which importlib finds what it calls. Of its own, every name counts but those that importlib itself
   sets anew (importlib/__init__.py: __name__, __file__, ...) and _thread, which shortcuts.c looks after. Of the others,
   those that its functions name (co_names of 3.11 to 3.15) on the way of a module that has a source; of builtins,
   those, too, that re._parser and re._compiler name on the way of a pattern (patterns.c). */
static const struct {
    const char *module;
    const char *names[56]; /* none: all */
} namespaces[] = {
    {"_frozen_importlib", {NULL}},
    {"_frozen_importlib_external", {NULL}},
    {"builtins",
     {"__import__", "AttributeError", "EOFError", "Exception", "FileNotFoundError", "ImportError", "ImportWarning",
      "IndexError", "KeyError", "ModuleNotFoundError", "NotADirectoryError", "NotImplemented", "NotImplementedError",
      "OSError", "OverflowError", "PermissionError", "RuntimeError", "TypeError", "ValueError", "any", "bin", "bool",
      "bytearray", "bytes", "chr", "dict", "enumerate", "exec", "getattr", "hasattr", "int", "isinstance", "iter",
      "len", "list", "map", "max", "memoryview", "min", "next", "object", "ord", "range", "reversed", "set", "setattr",
      "slice", "sorted", "staticmethod", "str", "super", "tuple", "type", "vars"}},
    {"_imp",
     {"_fix_co_filename", "_set_lazy_attributes", "acquire_lock", "check_hash_based_pycs", "find_frozen", "is_builtin",
      "is_frozen", "release_lock", "source_hash"}},
    {"marshal", {"loads"}},
    {"posix", {"fspath", "getcwd", "listdir", "stat"}},
    {"_io", {"FileIO", "open_code"}},
    {"_weakref", {"_remove_dead_weakref", "ref"}},
};
_Static_assert(
    sizeof(namespaces) / sizeof(namespaces[0]) == GUARDED_NAMESPACES, "one struct guarded_namespace for each");
enum { BUILTINS_NAMESPACE = 2 };

/* Is it a function, or classmethod of one, that the interpreter itself brought? */
static int
is_frozen_function(PyObject *attribute)
{
    PyObject *function = Py_NewRef(attribute);
    if (!PyFunction_Check(attribute)) {
        Py_SETREF(function, PyObject_GetAttrString(attribute, "__func__"));
    }
    if (function == NULL || !PyFunction_Check(function)) {
        PyErr_Clear();
        Py_XDECREF(function);
        return 0;
    }
    /* FileLoader.get_filename is wrapped by _check_name, from the same file */
    PyObject *file = PyObject_GetAttrString(PyFunction_GET_CODE(function), "co_filename");
    int same = file != NULL && PyUnicode_CompareWithASCIIString(file, EXTERNAL_FILE) == 0;
    Py_XDECREF(file);
    Py_DECREF(function);
    return same;
}

/* importlib's dictionary of a class, borrowed. */
static PyObject *
dictionary_of(PyTypeObject *type)
{
    return type->tp_dict; /* these are classes made in Python: theirs is not per interpreter */
}

static int
take(PyObject *external, const char *name, PyObject **to)
{
    *to = PyObject_GetAttrString(external, name);
    return *to == NULL ? RET_ERROR : RET_OK;
}

/* FileFinder._loaders of a finder made by the interpreter, and the extension suffixes out of it. */
static int
take_loaders(loader_state *state, PyObject *external)
{
    PyObject *details = PyObject_CallMethod(external, "_get_supported_file_loaders", NULL);
    PyObject *sourceless = PyObject_GetAttrString(external, "SourcelessFileLoader");
    Py_XDECREF(sourceless); /* compared only; the module keeps it */
    if (details == NULL || sourceless == NULL) {
        Py_XDECREF(details);
        return RET_ERROR;
    }
    state->loader_details = PySequence_Tuple(details);
    Py_DECREF(details);
    state->standard_loaders = PyList_New(0);
    if (state->loader_details == NULL || state->standard_loaders == NULL) {
        return RET_ERROR;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(state->loader_details); i++) {
        PyObject *loader, *suffixes;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(state->loader_details, i), "OO!", &loader, &PyList_Type, &suffixes)) {
            return RET_ERROR;
        }
        /* listings know names by these suffixes (snapshot.py); SOURCE_SUFFIXES and the like can be changed */
        const char *expected = loader == state->source_file_loader ? ".py" : loader == sourceless ? ".pyc" : NULL;
        if (loader != state->extension_file_loader
            && (expected == NULL || PyList_GET_SIZE(suffixes) != 1 || !PyUnicode_Check(PyList_GET_ITEM(suffixes, 0))
                || PyUnicode_CompareWithASCIIString(PyList_GET_ITEM(suffixes, 0), expected) != 0)) {
            PyErr_SetString(PyExc_RuntimeError, "importlib has other loaders or suffixes than its own");
            return RET_ERROR;
        }
        for (Py_ssize_t j = 0; j < PyList_GET_SIZE(suffixes); j++) {
            PyObject *suffix = PyList_GET_ITEM(suffixes, j);
            PyObject *pair = PyTuple_Pack(2, suffix, loader);
            if (pair == NULL || PyList_Append(state->standard_loaders, pair) != 0) {
                Py_XDECREF(pair);
                return RET_ERROR;
            }
            Py_DECREF(pair);
            if (loader == state->extension_file_loader) {
                const char *text = PyUnicode_AsUTF8(suffix);
                size_t slot = state->extension_suffix_count;
                if (text == NULL || slot >= 8 || strlen(text) >= sizeof(state->extension_suffixes[0])) {
                    PyErr_SetString(PyExc_RuntimeError, "unexpected extension suffixes");
                    return RET_ERROR;
                }
                strcpy(state->extension_suffixes[slot], text);
                state->extension_suffix_count++;
            }
        }
    }
    return RET_OK;
}

/* Is a hook FileFinder.path_hook(*the interpreter's own loaders)? Told by its closure, `cls` and `loader_details`. */
static bool
is_standard_hook(loader_state *state, PyObject *hook)
{
    if (!PyFunction_Check(hook) || !is_frozen_function(hook)) {
        return false;
    }
    PyObject *closure = PyFunction_GetClosure(hook);
    if (closure == NULL || PyTuple_GET_SIZE(closure) != 2) {
        return false;
    }
    PyObject *type = PyCell_Get(PyTuple_GET_ITEM(closure, 0));
    PyObject *details = PyCell_Get(PyTuple_GET_ITEM(closure, 1));
    bool standard = type == state->file_finder && details != NULL
                    && PyObject_RichCompareBool(details, state->loader_details, Py_EQ) == 1;
    PyErr_Clear();
    Py_XDECREF(type);
    Py_XDECREF(details);
    return standard;
}

/* The interpreter's own two hooks, zipimporter and FileFinder's, where they stand first in sys.path_hooks. */
static void
take_hooks(loader_state *state)
{
    PyObject *hooks = PySys_GetObject("path_hooks");
    if (hooks == NULL || !PyList_Check(hooks) || PyList_GET_SIZE(hooks) < 2) {
        return;
    }
    PyObject *zip = PyList_GET_ITEM(hooks, 0), *hook = PyList_GET_ITEM(hooks, 1);
    if (PyType_Check(zip) && strcmp(((PyTypeObject *)zip)->tp_name, "zipimporter") == 0
        && is_standard_hook(state, hook)) {
        state->zipimporter = Py_NewRef(zip);
        state->standard_hook = Py_NewRef(hook);
    }
}

static bool
is_left_alone(PyObject *name)
{
    const char *text = PyUnicode_AsUTF8(name);
    size_t bytes = text == NULL ? 0 : strlen(text);
    PyErr_Clear();
    return text != NULL && (strcmp(text, "_thread") == 0
           || (bytes > 4 && strncmp(text, "__", 2) == 0 && strcmp(text + bytes - 2, "__") == 0
               && strcmp(text, "__import__") != 0));
}

/* Is something that importlib calls, or a constant, the interpreter's own? */
static bool
is_own(PyObject *module, PyObject *value)
{
    if (PyFunction_Check(value)) {
        PyObject *file = ((PyCodeObject *)PyFunction_GET_CODE(value))->co_filename;
        const char *text = PyUnicode_AsUTF8(file);
        PyErr_Clear();
        return text != NULL && strncmp(text, BOOTSTRAP_FILES, strlen(BOOTSTRAP_FILES)) == 0;
    }
    if (PyCFunction_CheckExact(value)) {
        return PyCFunction_GET_SELF(value) == module;
    }
    if (PyType_Check(value)) {
        return !(((PyTypeObject *)value)->tp_flags & Py_TPFLAGS_HEAPTYPE)
               || ((PyTypeObject *)value)->tp_flags & Py_TPFLAGS_IMMUTABLETYPE;
    }
    return PyUnicode_CheckExact(value) || value == Py_NotImplemented;
}

/* Is it something that importlib's own namespaces have none of: a function from elsewhere, an object that can be
   called? */
static bool
is_foreign(loader_state *state, PyObject *module, PyObject *value)
{
    return PyFunction_Check(value)
               ? !is_own(module, value)
               : PyCallable_Check(value) && !PyType_Check(value) && !PyCFunction_CheckExact(value)
                     && !shortcuts_put_in_place(state, value);
}

/* Takes note of what is in a namespace. RET_ERROR with an exception, or without one: it isn't the interpreter's own. */
static int
take_namespace(
    loader_state *state, struct guarded_namespace *namespace, PyObject *module, const char *const *names)
{
    namespace->dictionary = Py_XNewRef(PyModule_GetDict(module));
    namespace->is_whole = names[0] == NULL;
    if (namespace->is_whole) {
        namespace->expected = PyDict_Copy(namespace->dictionary);
        PyObject *name, *value;
        for (Py_ssize_t at = 0; namespace->expected != NULL && PyDict_Next(namespace->expected, &at, &name, &value);) {
            if (!PyUnicode_CheckExact(name) || is_foreign(state, module, value)) {
                return RET_ERROR;
            }
            namespace->count += !is_left_alone(name);
        }
        if (namespace->expected != NULL && shortcuts_undo(state, module, namespace->expected) != RET_OK) {
            return RET_ERROR;
        }
        return namespace->expected == NULL ? RET_ERROR : RET_OK;
    }
    namespace->expected = PyDict_New();
    for (; namespace->expected != NULL && *names != NULL; names++) {
        PyObject *name = PyUnicode_InternFromString(*names);
        PyObject *value = name == NULL ? NULL : PyDict_GetItemWithError(namespace->dictionary, name);
        bool known = value != NULL && is_own(module, value) && PyDict_SetItem(namespace->expected, name, value) == 0;
        Py_XDECREF(name);
        if (!known && (value != NULL || PyErr_Occurred())) { /* what isn't there is another version's */
            return RET_ERROR;
        }
    }
    return namespace->expected == NULL ? RET_ERROR : RET_OK;
}

/* Does a dictionary's version tell of every change? */
static bool
versions_tell_changes(void)
{
    PyObject *dictionary = PyDict_New();
    bool tell = dictionary != NULL && native_dictionary_version(dictionary) != 0;
    uint64_t before = tell ? native_dictionary_version(dictionary) : 0;
    for (int step = 0; tell && step < 3; step++) {
        int done = step == 2 ? PyDict_DelItemString(dictionary, "x")
                             : PyDict_SetItemString(dictionary, "x", step == 0 ? Py_None : Py_True);
        tell = done == 0 && native_dictionary_version(dictionary) != before;
        before = native_dictionary_version(dictionary);
    }
    Py_XDECREF(dictionary);
    PyErr_Clear();
    return tell;
}

/* Is it `site` that imports, or the interpreter itself, so that no program has begun? */
static bool
is_start_up(void)
{
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    bool frozen = true;
    while (frame != NULL) { /* the outermost one decides */
        PyCodeObject *code = PyFrame_GetCode(frame);
        const char *file = PyUnicode_AsUTF8(code->co_filename);
        frozen = file != NULL && strncmp(file, "<frozen ", strlen("<frozen ")) == 0;
        Py_DECREF(code);
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    PyErr_Clear();
    return frozen;
}

/* What counts of a name? `argument` is a struct guarded_namespace. */
static enum native_wish
what_counts(PyObject *name, void *argument)
{
    const struct guarded_namespace *namespace = argument;
    if (namespace->is_whole) {
        return is_left_alone(name) ? NATIVE_KEY_WANTED : NATIVE_ITEM_WANTED;
    }
    int is_expected = PyDict_Contains(namespace->expected, name);
    PyErr_Clear();
    return is_expected == 1 ? NATIVE_ITEM_WANTED : NATIVE_NOT_WANTED;
}

static void
note_namespace(struct guarded_namespace *namespace)
{
    namespace->checked_version = native_dictionary_version(namespace->dictionary);
    if (NATIVE_REMEMBERS_PLACES) {
        native_places_take(&namespace->places, namespace->dictionary, what_counts, namespace);
    }
}

/* What lies behind importlib's locks and specs; not all of it is there in each version. */
static const char *const helper_names[] = {
    "ModuleSpec", "_ModuleLock", "_BlockingOnManager", "_ImportLockContext", "_List", "_WeakValueDictionary"};
_Static_assert(sizeof(helper_names) / sizeof(helper_names[0]) == GUARDED_HELPERS, "one struct guarded_helper for each");

/* The tag of a class; a look-up gives it one if it has none. */
static unsigned int
tag_of(PyTypeObject *type)
{
    if (type->tp_version_tag == 0) {
        PyObject *looked_up = PyObject_GetAttrString((PyObject *)type, "__doc__");
        Py_XDECREF(looked_up);
        PyErr_Clear();
    }
    return type->tp_version_tag;
}

/* RET_ERROR with an exception, or without one: a class isn't the interpreter's own. */
static int
take_helpers(loader_state *state)
{
    PyObject *bootstrap = state->namespaces[0].dictionary;
    for (int i = 0; i < GUARDED_HELPERS; i++) {
        struct guarded_helper *helper = &state->helpers[i];
        PyObject *type = PyDict_GetItemString(bootstrap, helper_names[i]), *name, *value;
        if (type == NULL) {
            continue;
        }
        if (!PyType_Check(type) || (helper->expected = PyDict_Copy(dictionary_of((PyTypeObject *)type))) == NULL) {
            return RET_ERROR;
        }
        helper->type = (PyTypeObject *)Py_NewRef(type);
        for (Py_ssize_t at = 0; PyDict_Next(helper->expected, &at, &name, &value);) {
            if (!PyUnicode_CheckExact(name) || (PyFunction_Check(value) && !is_own(type, value))) {
                return RET_ERROR;
            }
        }
        helper->checked_tag = tag_of(helper->type);
    }
    return RET_OK;
}

/* Has a class the attributes that it had? */
static bool
helper_is_same(struct guarded_helper *helper)
{
    if (helper->type == NULL || (helper->checked_tag != 0 && helper->type->tp_version_tag == helper->checked_tag)) {
        return true;
    }
    PyObject *now = dictionary_of(helper->type), *name, *value;
    if (PyDict_GET_SIZE(now) != PyDict_GET_SIZE(helper->expected)) {
        return false;
    }
    for (Py_ssize_t at = 0; PyDict_Next(now, &at, &name, &value);) {
        if (!PyUnicode_CheckExact(name) || PyDict_GetItemWithError(helper->expected, name) != value) {
            PyErr_Clear();
            return false;
        }
    }
    helper->checked_tag = tag_of(helper->type);
    return true;
}

/* Not before a program's first look-up: an empty run is to stay one. RET_ERROR, without an exception: something isn't
   the interpreter's own, or there is no memory, and the session says so. */
static int
take_namespaces(loader_state *state)
{
    static const char patched[] = "what importlib calls was patched before the first import";
    state->versions_tell_changes = versions_tell_changes();
    for (int i = 0; i < GUARDED_NAMESPACES; i++) {
        PyObject *module = loaded_module(namespaces[i].module);
        bool is_module = module != NULL && PyModule_Check(module);
        int result = is_module ? take_namespace(state, &state->namespaces[i], module, namespaces[i].names) : RET_ERROR;
        Py_XDECREF(module);
        if (result != RET_OK) {
            session_set_reason(state->session, PyErr_Occurred() ? "out of memory" : patched);
            PyErr_Clear();
            return RET_ERROR;
        }
        note_namespace(&state->namespaces[i]);
    }
    if (take_helpers(state) != RET_OK) {
        session_set_reason(state->session, PyErr_Occurred() ? "out of memory" : patched);
        PyErr_Clear();
        return RET_ERROR;
    }
    return RET_OK;
}

static bool
namespace_is_same(loader_state *state, const struct guarded_namespace *namespace)
{
    PyObject *name, *value;
    PyObject *from = namespace->is_whole ? namespace->dictionary : namespace->expected;
    PyObject *to = namespace->is_whole ? namespace->expected : namespace->dictionary;
    Py_ssize_t found = 0;
    for (Py_ssize_t at = 0; PyDict_Next(from, &at, &name, &value);) {
        if (!PyUnicode_CheckExact(name)) {
            return false;
        }
        if (namespace->is_whole && is_left_alone(name)) {
            continue;
        }
        if (PyDict_GetItemWithError(to, name) != value
            && !(namespace->is_whole && shortcuts_put_in_place(state, value))) {
            PyErr_Clear();
            return false;
        }
        found++;
    }
    return !namespace->is_whole || found == namespace->count;
}

/* Nothing that counts was changed since it was last found to be the same? Quick, and false if in doubt. */
static bool
namespace_is_unchanged(loader_state *state, const struct guarded_namespace *namespace)
{
    return state->versions_tell_changes
               ? native_dictionary_version(namespace->dictionary) == namespace->checked_version
               : native_places_hold(&namespace->places, namespace->dictionary, namespace->is_whole);
}

int
guard_importlib(loader_state *state, const char **reason)
{
    PyObject *external = loaded_module("_frozen_importlib_external");
    PyObject *bootstrap = loaded_module("_frozen_importlib");
    int result = RET_ERROR;
    *reason = NULL;
    if (external == NULL || bootstrap == NULL) {
        *reason = "importlib is not the interpreter's own";
        goto done;
    }
    PyObject *types[GUARDED_TYPES] = {0};
    static const char *const names[GUARDED_TYPES] = {
        "PathFinder", "FileFinder", "FileLoader", "SourceLoader", "SourceFileLoader"};
    for (int i = 0; i < GUARDED_TYPES; i++) {
        if (take(external, names[i], &types[i]) != RET_OK) {
            goto done;
        }
        if (!PyType_Check(types[i])) {
            *reason = "importlib is not the interpreter's own";
            goto done;
        }
        state->guarded[i].type = (PyTypeObject *)types[i];
    }
    if (types[GUARDED_PATH_FINDER] != state->path_finder) {
        *reason = "importlib was patched while pycds-auto was activated";
        goto done;
    }
    state->file_finder = Py_NewRef(types[GUARDED_FILE_FINDER]);
    state->source_file_loader = Py_NewRef(types[GUARDED_SOURCE_FILE_LOADER]);
    if (take(external, "ExtensionFileLoader", &state->extension_file_loader) != RET_OK
        || take(external, "_NamespacePath", &state->namespace_path) != RET_OK
        || take(bootstrap, "ModuleSpec", &state->module_spec) != RET_OK
        || take(state->path_finder, "_path_importer_cache", &state->plain_path_importer_cache) != RET_OK
        || take(state->path_finder, "_get_spec", &state->plain_get_spec) != RET_OK
        || take(state->file_finder, "find_spec", &state->file_finder_find_spec) != RET_OK
        || take_loaders(state, external) != RET_OK) {
        goto done;
    }
    take_hooks(state);
    for (size_t i = 0; i < sizeof(watched) / sizeof(watched[0]); i++) {
        struct guarded_attribute *attribute = &state->attributes[i];
        attribute->owner = watched[i].owner;
        attribute->name = PyUnicode_InternFromString(watched[i].name);
        if (attribute->name == NULL) {
            goto done;
        }
        PyObject *original =
            PyDict_GetItemWithError(dictionary_of(state->guarded[watched[i].owner].type), attribute->name);
        if ((original != NULL) != watched[i].expected || (original != NULL && !is_frozen_function(original))) {
            *reason = "importlib was patched before pycds-auto was activated";
            goto done;
        }
        attribute->original = Py_XNewRef(original);
        state->attribute_count = i + 1;
    }
    result = RET_OK;
done:
    Py_XDECREF(external);
    Py_XDECREF(bootstrap);
    return result;
}

/* tracemalloc would see what importlib allocates (Modules/_tracemalloc.c and, 3.13, Python/tracemalloc.c,
   PyTraceMalloc_Untrack: -2 if it isn't tracing; nobody else has our number of a domain, so nothing is untracked). */
static bool
memory_is_traced(void)
{
    return PyTraceMalloc_Untrack(0x70796364, 0) != -2;
}

bool
import_is_observed(loader_state *state)
{
#if NATIVE_SUPPORTED
    if (state->observers == OBSERVERS_DUE) {
        state->observers = native_can_tell_observers() ? OBSERVERS_KNOWN : OBSERVERS_UNKNOWN;
    }
    if (state->observers == OBSERVERS_KNOWN && native_is_observed()) {
        return true;
    }
#else
    /* What the interpreter shows of it. Audit hooks and tools of sys.monitoring are to be had from its inner
       structures only: they see our finder at work, and not PathFinder. */
    (void)state;
    const PyThreadState *thread = PyThreadState_Get();
    if (thread->c_profilefunc != NULL || thread->c_tracefunc != NULL) {
        return true;
    }
#endif
    return memory_is_traced();
}

/* Does a namespace hold what it held? */
static bool
namespace_is_untouched(loader_state *state, struct guarded_namespace *namespace)
{
    if (namespace_is_unchanged(state, namespace)) {
        return true;
    }
    if (!namespace_is_same(state, namespace)) {
        return false;
    }
    note_namespace(namespace);
    return true;
}

/* Before any program has begun, nobody can have touched anything: NAMESPACES_DUE. */
static void
know_namespaces(loader_state *state)
{
    if (state->namespaces_are == NAMESPACES_DUE && state->session != NULL && !is_start_up()) {
        state->namespaces_are = NAMESPACES_FOREIGN;
        if (take_namespaces(state) == RET_OK) {
            state->namespaces_are = NAMESPACES_KNOWN;
        }
    }
}

bool
builtins_are_untouched(loader_state *state)
{
    know_namespaces(state);
    return state->namespaces_are == NAMESPACES_DUE
           || (state->namespaces_are == NAMESPACES_KNOWN
               && namespace_is_untouched(state, &state->namespaces[BUILTINS_NAMESPACE]));
}

bool
importlib_is_untouched(loader_state *state)
{
    know_namespaces(state);
    if (state->namespaces_are == NAMESPACES_FOREIGN) {
        return false;
    }
    for (int i = 0; i < GUARDED_NAMESPACES && state->namespaces_are == NAMESPACES_KNOWN; i++) {
        if (!namespace_is_untouched(state, &state->namespaces[i])) {
            return false;
        }
    }
    for (int i = 0; i < GUARDED_HELPERS && state->namespaces_are == NAMESPACES_KNOWN; i++) {
        if (!helper_is_same(&state->helpers[i])) {
            return false;
        }
    }
    bool same_tags = true;
    for (int i = 0; i < GUARDED_TYPES; i++) {
        unsigned int tag = state->guarded[i].type->tp_version_tag;
        same_tags = same_tags && tag != 0 && tag == state->guarded[i].checked_tag;
    }
    if (same_tags) {
        return true;
    }
    for (size_t i = 0; i < state->attribute_count; i++) {
        const struct guarded_attribute *attribute = &state->attributes[i];
        PyObject *now =
            PyDict_GetItemWithError(dictionary_of(state->guarded[attribute->owner].type), attribute->name);
        if (now != attribute->original) {
            PyErr_Clear();
            return false;
        }
    }
    for (int i = 0; i < GUARDED_TYPES; i++) {
        /* a look-up gives the class a tag if it has none */
        PyObject *looked_up = PyObject_GetAttrString((PyObject *)state->guarded[i].type, "__doc__");
        Py_XDECREF(looked_up);
        PyErr_Clear();
        state->guarded[i].checked_tag = state->guarded[i].type->tp_version_tag;
    }
    return true;
}
