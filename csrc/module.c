/* pycds_auto._loader, the extension module: everything that runs in the user's program.

   Suggested reading order: activate() below; session.c (where the cache is, is it trustworthy); image.h (the file);
   finder.c (which file an import finds); archive_loader.c (its code); recorder.c (what was missing); rebuilder.c (the
   end of the process). results.h tells what else is kept (patterns.h, sources.h). guard.c watches importlib. The file
   is written by src/pycds_auto/rebuild.py and image.py. */
#include "state.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#include <unistd.h>

#include "cachedir.h"
#include "checksum.h"
#include "classes.h"
#include "encoding.h"
#include "finalization.h"
#include "identity.h"
#include "rebuilder.h"
#include "patterns.h"
#include "shortcuts.h"
#include "sources.h"

/* ---- small helpers ---- */

long
system_flag(const char *name)
{
    PyObject *flags = PySys_GetObject("flags");
    PyObject *value = flags == NULL ? NULL : PyObject_GetAttrString(flags, name);
    long result = value == NULL ? 0 : PyLong_AsLong(value);
    Py_XDECREF(value);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    return result;
}

/* A copy of a str in utf-8; NULL (no exception) if it is none, or cannot be encoded. */
static char *
copy_text(PyObject *text)
{
    const char *utf8 = text != NULL && PyUnicode_Check(text) ? PyUnicode_AsUTF8(text) : NULL;
    if (utf8 == NULL) {
        PyErr_Clear();
        return NULL;
    }
    return strdup(utf8);
}

static char *
copy_system_text(const char *name)
{
    return copy_text(PySys_GetObject(name));
}

/* Does the program run without column tables (-X no_debug_ranges, PYTHONNODEBUGRANGES)? They are part of code
   objects. */
static bool
without_debug_ranges(bool ignore_environment)
{
    PyObject *options = PySys_GetObject("_xoptions");
    if (options != NULL && PyDict_Check(options) && PyDict_GetItemString(options, "no_debug_ranges") != NULL) {
        return true;
    }
    const char *variable = ignore_environment ? NULL : getenv("PYTHONNODEBUGRANGES");
    return variable != NULL && variable[0] != '\0';
}

PyObject *
loaded_module(const char *name)
{
    PyObject *modules = PySys_GetObject("modules");
    PyObject *module = modules == NULL ? NULL : PyMapping_GetItemString(modules, name);
    if (module == NULL && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_RuntimeError, "no sys.modules");
    }
    return module;
}

/* ---- the session ---- */

/* sys.implementation.cache_tag and the part of the first extension suffix that names the binary interface. */
static int
interpreter_names(char *cache_tag, char *soabi, size_t bytes)
{
    PyObject *implementation = PySys_GetObject("implementation");
    PyObject *tag = implementation == NULL ? NULL : PyObject_GetAttrString(implementation, "cache_tag");
    PyObject *imp = loaded_module("_imp");
    PyObject *suffixes = imp == NULL ? NULL : PyObject_CallMethod(imp, "extension_suffixes", NULL);
    const char *tag_text = tag != NULL && PyUnicode_Check(tag) ? PyUnicode_AsUTF8(tag) : NULL;
    const char *suffix = NULL;
    if (suffixes != NULL && PyList_Check(suffixes) && PyList_GET_SIZE(suffixes) > 0) {
        suffix = PyUnicode_AsUTF8(PyList_GET_ITEM(suffixes, 0));
    }
    int result = RET_ERROR;
    if (tag_text != NULL && suffix != NULL && strchr(tag_text, '/') == NULL && strlen(tag_text) < bytes
        && strlen(suffix) < bytes) {
        strcpy(cache_tag, tag_text);
        strcpy(soabi, suffix);
        result = RET_OK;
    }
    Py_XDECREF(tag);
    Py_XDECREF(imp);
    Py_XDECREF(suffixes);
    PyErr_Clear();
    return result;
}

/* Makes the session: reads settings, computes places and identity. NULL: no memory (exception set). A session whose
   places are not known has a reason. */
static struct session *
session_create(void)
{
    struct session *session = calloc(1, sizeof(*session));
    if (session == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    bool ignore_environment = system_flag("ignore_environment") != 0;
    settings_read(&session->settings, ignore_environment);
    if (!ACCELERATIONS_SUPPORTED) {
        session->settings.skipped = ~0u;
    }
    session->pid = getpid();
    session->executable = copy_system_text("executable");
    session->prefix = copy_system_text("prefix");
    long optimise = system_flag("optimize");
    snprintf(
        session->variant, sizeof(session->variant), "%d%s", optimise > 2 ? 2 : (int)optimise,
        without_debug_ranges(ignore_environment) ? "n" : "");
    char cache_tag[64], soabi[64], build[160];
    if (session->settings.disabled) {
        session_set_reason(session, "PYCDS_DISABLE is set");
    }
    else if (session->settings.privileged) {
        session_set_reason(session, "set-uid, set-gid, or with capabilities of its own");
    }
    if (session->prefix == NULL || interpreter_names(cache_tag, soabi, sizeof(cache_tag)) != RET_OK
        || !interpreter_build(build, sizeof(build))) {
        session_set_reason(session, "the interpreter cannot be identified");
        return session;
    }
    snprintf(
        session->cached_suffix, sizeof(session->cached_suffix), ".%s%s%.1s.pyc", cache_tag, optimise ? ".opt-" : "",
        optimise ? session->variant : "");
    size_t bytes = strlen(session->prefix) + 1024;
    session->identity = malloc(bytes);
    if (session->identity == NULL) {
        session_free(session);
        PyErr_NoMemory();
        return NULL;
    }
    /* the last line is the variant: the rebuilder derives one identity from another (rebuild.py) */
    snprintf(
        session->identity, bytes, "python=%.300s\nmagic=%ld\nabi=%s\nbuild=%s\nprefix=%s\nvariant=%s\n",
        Py_GetVersion(), PyImport_GetMagicNumber(), soabi, build, session->prefix, session->variant);
    if (!session_locate(session, cache_tag, soabi, build) && session->reason[0] == '\0') {
        snprintf(
            session->reason, sizeof(session->reason), "no cache folder: %s",
            session->settings.no_cache_root == NULL ? "its path is too long" : session->settings.no_cache_root);
    }
    return session;
}

/* The module's session, made at the first call. Borrowed; NULL: exception. */
static struct session *
session_of(loader_state *state)
{
    if (state == NULL) {
        PyErr_SetString(PyExc_SystemError, "pycds_auto._loader was not executed"); /* _imp.create_dynamic alone */
        return NULL;
    }
    if (state->session == NULL) {
        state->session = session_create();
    }
    return state->session;
}

/* ---- activation ---- */

/* Why this interpreter is not to be activated at all; NULL: it is. */
static const char *
decline(void)
{
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        return "subinterpreter";
    }
#ifdef Py_GIL_DISABLED
    return "free-threaded interpreter";
#else
    PyObject *function = PySys_GetObject("getfilesystemencoding");
    PyObject *encoding = function == NULL ? NULL : PyObject_CallNoArgs(function);
    bool is_utf8 =
        encoding != NULL && PyUnicode_Check(encoding) && PyUnicode_CompareWithASCIIString(encoding, "utf-8") == 0;
    Py_XDECREF(encoding);
    PyErr_Clear();
    if (!is_utf8) {
        return "file names are not utf-8 here"; /* a name in the image would stand for another file */
    }
    if (system_flag("optimize") > 2) {
        return "optimisation level above 2"; /* cache_from_source has a name for each; nobody uses them */
    }
    if (system_flag("verbose") > 0) {
        return "verbose imports (-v)"; /* its output tells each file that importlib reads */
    }
    if (native_import_time() > 1) {
        return "-X importtime=2"; /* it tells what is imported to read a file, too */
    }
    PyObject *implementation = PySys_GetObject("implementation");
    PyObject *name = implementation == NULL ? NULL : PyObject_GetAttrString(implementation, "name");
    bool is_cpython = name != NULL && PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, "cpython") == 0;
    Py_XDECREF(name);
    PyErr_Clear();
    if (!is_cpython) {
        return "not CPython";
    }
    PyObject *imp = loaded_module("_imp");
    PyObject *rule = imp == NULL ? NULL : PyObject_GetAttrString(imp, "check_hash_based_pycs");
    bool standard =
        rule != NULL && PyUnicode_Check(rule) && PyUnicode_CompareWithASCIIString(rule, "default") == 0;
    Py_XDECREF(imp);
    Py_XDECREF(rule);
    PyErr_Clear();
    return standard ? NULL : "--check-hash-based-pycs";
#endif
}

/* Puts the finder directly before PathFinder. RET_OK, or RET_ERROR with *reason or an exception. */
static int
install_finder(loader_state *state, const char **reason)
{
    PyObject *finders = PySys_GetObject("meta_path");
    *reason = "PathFinder is not in sys.meta_path";
    if (finders == NULL || !PyList_Check(finders)) {
        return RET_ERROR;
    }
    PyObject *external = loaded_module("_frozen_importlib_external");
    PyObject *path_finder = external == NULL ? NULL : PyObject_GetAttrString(external, "PathFinder");
    Py_XDECREF(external);
    if (path_finder == NULL) {
        *reason = NULL;
        return RET_ERROR;
    }
    state->path_finder = path_finder;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(finders); i++) {
        if (PyList_GET_ITEM(finders, i) == path_finder) {
            PyTypeObject *type = (PyTypeObject *)state->finder_type;
            PyObject *finder = type->tp_alloc(type, 0);
            *reason = NULL;
            state->installed = finder != NULL && PyList_Insert(finders, i, finder) == 0;
            Py_XDECREF(finder);
            return state->installed ? RET_OK : RET_ERROR;
        }
    }
    return RET_ERROR;
}

static int
intern_strings(loader_state *state)
{
    struct {
        PyObject **to;
        const char *text;
    } all[] = {
        {&state->strings.path, "path"},
        {&state->strings.name, "name"},
        {&state->strings.loaders, "_loaders"},
        {&state->strings.origin, "origin"},
        {&state->strings.loader, "loader"},
        {&state->strings.set_fileattr, "_set_fileattr"},
        {&state->strings.cached, "_cached"},
        {&state->strings.locations, "submodule_search_locations"},
        {&state->strings.find_spec, "find_spec"},
        {&state->strings.fill_cache, "_fill_cache"},
        {&state->strings.get_spec, "_get_spec"},
        {&state->strings.dunder_class, "__class__"},
        {&state->strings.get_code, "get_code"},
        {&state->strings.cache_tag, "cache_tag"},
        {&state->strings.path_cache, "_path_cache"},
        {&state->strings.path_mtime, "_path_mtime"},
        {&state->strings.re, "re"},
        {&state->strings.loader_state, "loader_state"},
        {&state->strings.uninitialized_submodules, "_uninitialized_submodules"},
        {&state->strings.pycache_prefix, "pycache_prefix"},
        {&state->strings.implementation, "implementation"},
        {&state->strings.meta_path, "meta_path"},
        {&state->strings.modules, "modules"},
        {&state->strings.path_hooks, "path_hooks"},
        {&state->strings.path_importer_cache, "path_importer_cache"},
        {&state->strings.standard_output, "stdout"},
        {&state->strings.standard_error, "stderr"},
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        *all[i].to = PyUnicode_InternFromString(all[i].text);
        if (*all[i].to == NULL) {
            return RET_ERROR;
        }
    }
    return RET_OK;
}

/* Turns the pending exception into the session's reason. */
static void
exception_to_reason(loader_state *state)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *text = value == NULL ? NULL : PyObject_Str(value);
    const char *utf8 = text == NULL ? NULL : PyUnicode_AsUTF8(text);
    if (state->session != NULL) {
        char reason[200];
        snprintf(reason, sizeof(reason), "activation failed: %.150s", utf8 == NULL ? "?" : utf8);
        session_set_reason(state->session, reason);
    }
    Py_XDECREF(text);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    PyErr_Clear();
}

/* Everything of activation that can fail with an exception. RET_OK with the session's reason set, or RET_ERROR. */
static int
activate(PyObject *module, loader_state *state)
{
    struct session *session = session_of(state);
    if (session == NULL) {
        return RET_ERROR;
    }
    const char *reason = session->reason[0] ? session->reason : decline();
    if (reason != NULL) {
        if (reason != session->reason) {
            session_set_reason(session, reason);
        }
        return RET_OK;
    }
    session_open(session);
    if (!session_serves(session) && !session->recording) {
        return RET_OK; /* nothing to give and nothing to learn */
    }
    session->stdlib = copy_system_text("_stdlib_dir");
    state->finder_type = make_finder_type(module);
    if (state->finder_type == NULL) {
        return RET_ERROR;
    }
    if (install_finder(state, &reason) != RET_OK) {
        goto declined;
    }
    rebuilder_arm(session);
    state->session_is_armed = true;
    patterns_prepare(state);
    sources_install(state);
    return RET_OK;
declined:
    session->recording = false;
    if (reason == NULL) {
        return RET_ERROR;
    }
    session_set_reason(session, reason);
    return RET_OK;
}

/* Takes note of the dictionary that PySys_GetObject looks into: the one of sys, unless a program put another there. */
static int
take_system(loader_state *state)
{
    PyObject *module = loaded_module("sys");
    if (module != NULL && PyModule_Check(module)
        && PyDict_GetItemString(PyModule_GetDict(module), "meta_path") == PySys_GetObject("meta_path")
        && PyDict_GetItemString(PyModule_GetDict(module), "modules") == PySys_GetObject("modules")) {
        state->system = Py_NewRef(PyModule_GetDict(module));
        state->library = Py_XNewRef(PyDict_GetItemString(state->system, "_stdlib_dir"));
    }
    Py_XDECREF(module);
    if (state->system == NULL && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_RuntimeError, "sys is not the interpreter's own");
    }
    return state->system == NULL ? RET_ERROR : RET_OK;
}

bool
prepare_search(loader_state *state)
{
    const char *reason = NULL;
    if (state->preparation == PREPARATION_DUE) {
        state->preparation = PREPARATION_FAILED; /* also for look-ups that the preparation itself makes */
        state->entry_index = PyDict_New();
        PyObject *implementation = PySys_GetObject("implementation");
        if (state->entry_index != NULL && implementation != NULL && intern_strings(state) == RET_OK
            && take_system(state) == RET_OK
            && (state->cache_tag = PyObject_GetAttr(implementation, state->strings.cache_tag)) != NULL
            && guard_importlib(state, &reason) == RET_OK) {
            state->preparation = PREPARATION_DONE;
        }
        else {
            state->session->recording = false;
            if (reason != NULL) {
                session_set_reason(state->session, reason);
            }
            else {
                exception_to_reason(state);
            }
        }
    }
    return state->preparation == PREPARATION_DONE;
}

/* Gives a module that the .pth file made with _imp.create_dynamic, from the file `origin`, what importlib gives every
   module. */
static int
adopt_origin(PyObject *module, PyObject *origin)
{
    static const char name[] = "pycds_auto._loader";
    PyObject *external = loaded_module("_frozen_importlib_external");
    PyObject *bootstrap = external == NULL ? NULL : loaded_module("_frozen_importlib");
    PyObject *modules = PySys_GetObject("modules");
    PyObject *loader = NULL, *spec = NULL;
    int result = RET_ERROR;
    if (bootstrap != NULL && modules != NULL
        && (loader = PyObject_CallMethod(external, "ExtensionFileLoader", "sO", name, origin)) != NULL
        && (spec = PyObject_CallMethod(bootstrap, "ModuleSpec", "sO", name, loader)) != NULL
        && PyObject_SetAttrString(spec, "origin", origin) == 0
        && PyObject_SetAttrString(spec, "_set_fileattr", Py_True) == 0
        && PyObject_SetAttrString(module, "__spec__", spec) == 0
        && PyObject_SetAttrString(module, "__loader__", loader) == 0
        && PyObject_SetAttrString(module, "__file__", origin) == 0
        && PyModule_AddStringConstant(module, "__package__", "pycds_auto") == 0
        && PyMapping_SetItemString(modules, name, module) == 0) {
        result = RET_OK;
    }
    Py_XDECREF(external);
    Py_XDECREF(bootstrap);
    Py_XDECREF(loader);
    Py_XDECREF(spec);
    return result;
}

/* The folder that holds the package: two above this extension module. */
static void
find_package(struct session *session, PyObject *module)
{
    PyObject *file = PyObject_GetAttrString(module, "__file__");
    session->package_parent = copy_text(file);
    Py_XDECREF(file);
    PyErr_Clear();
    for (int i = 0; i < 2 && session->package_parent != NULL; i++) {
        char *slash = strrchr(session->package_parent, '/');
        if (slash == NULL) {
            free(session->package_parent);
            session->package_parent = NULL;
            break;
        }
        *slash = '\0';
    }
}

PyDoc_STRVAR(
    activate_doc,
    "activate($module, origin=None, /)\n--\n\n"
    "Puts the finder into sys.meta_path unless something speaks against it (stats()['reason'] says what).\n\n"
    "Called from pycds_auto.pth at every start, which makes the module without importlib and says from which file.\n"
    "Returns whether an image is in use. Never raises.");

static PyObject *
loader_activate(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    loader_state *state = PyModule_GetState(module);
    if (state == NULL) {
        return PyBool_FromLong(0);
    }
    if (!state->activated) {
        state->activated = true;
        state->module = module;
        if ((count > 0 && arguments[0] != Py_None && adopt_origin(module, arguments[0]) != RET_OK)
            || activate(module, state) != RET_OK) {
            exception_to_reason(state);
        }
        else if (state->installed) {
            find_package(state->session, module);
            rebuilder_fold_left_over(state->session);
        }
        if (state->session != NULL && state->session->settings.log && !state->session_is_armed
            && PyInterpreterState_Get() == PyInterpreterState_Main()) {
            state->session->recording = false;
            rebuilder_arm(state->session); /* to say at the end why nothing was served */
            state->session_is_armed = true;
        }
    }
    return PyBool_FromLong(state->session != NULL && session_serves(state->session));
}

/* ---- reports ---- */

static bool
is_active(const loader_state *state)
{
    return state->installed && session_serves(state->session);
}

/* Why the image is not in use, as a new str, or None. */
static PyObject *
reason_object(const loader_state *state)
{
    if (is_active(state)) {
        Py_RETURN_NONE;
    }
    if (state->session->reason[0]) {
        return PyUnicode_DecodeLocale(state->session->reason, "surrogateescape");
    }
    return PyUnicode_FromString("not activated in this process");
}

PyDoc_STRVAR(
    stats_doc,
    "stats($module, /)\n--\n\n"
    "This process's counts: {'active': bool, 'reason': str or None, 'hits': int, 'misses': int, 'stale': int}.");

static PyObject *
loader_stats(PyObject *module, PyObject *unused)
{
    (void)unused;
    loader_state *state = PyModule_GetState(module);
    struct session *session = session_of(state);
    if (session == NULL) {
        return NULL;
    }
    return Py_BuildValue(
        "{s:O,s:N,s:K,s:K,s:K}", "active", is_active(state) ? Py_True : Py_False, "reason", reason_object(state),
        "hits", (unsigned long long)session->hits, "misses", (unsigned long long)session->misses, "stale",
        (unsigned long long)session->stale);
}

PyDoc_STRVAR(
    stop_recording_doc,
    "stop_recording($module, /)\n--\n\n"
    "Ends recording in this process, and its end starts no rebuilder: for `clear`, which would undo itself.");

static PyObject *
loader_stop_recording(PyObject *module, PyObject *unused)
{
    (void)unused;
    loader_state *state = PyModule_GetState(module);
    struct session *session = session_of(state);
    if (session == NULL) {
        return NULL;
    }
    session->recording = false;
    session->record_reason = "stopped";
    Py_RETURN_NONE;
}

static PyObject *
text_or_none(const char *text)
{
    if (text == NULL || text[0] == '\0') {
        Py_RETURN_NONE;
    }
    return PyUnicode_DecodeFSDefault(text);
}

PyDoc_STRVAR(
    state_doc,
    "state($module, /)\n--\n\n"
    "Where the cache of this interpreter and environment is and how it stands, as a dict; works without activation.");

static PyObject *
loader_state_report(PyObject *module, PyObject *unused)
{
    (void)unused;
    loader_state *state = PyModule_GetState(module);
    struct session *session = session_of(state);
    if (session == NULL) {
        return NULL;
    }
    const char *record_reason = session->record_reason;
    if (!session->recording && record_reason == NULL && !state->installed) {
        record_reason = "not activated in this process";
    }
    return Py_BuildValue(
        "{s:O,s:N,s:N,s:N,s:N,s:N,s:s,s:N,s:N,s:N,s:N,s:N,s:O,s:s,s:O,s:N,s:N,s:N,s:N,s:O,s:d,s:K,s:K}", "active",
        is_active(state) ? Py_True : Py_False, "reason", reason_object(state), "python",
        text_or_none(session->executable), "prefix", text_or_none(session->prefix), "cache_root",
        text_or_none(session->settings.cache_root), "folder", text_or_none(session->folder), "variant",
        session->variant, "image", text_or_none(session->image_path), "spool", text_or_none(session->spool_path),
        "lock", text_or_none(session->lock_path), "state_file", text_or_none(session->state_path), "identity",
        text_or_none(session->identity), "readonly", session->settings.readonly ? Py_True : Py_False, "validate",
        session->settings.trust ? "trust" : "stat", "recording", session->recording ? Py_True : Py_False,
        "record_reason", text_or_none(record_reason), "unknown_validate",
        text_or_none(session->settings.unknown_validate), "skip", text_or_none(session->settings.skip), "bypassed",
        text_or_none(session->bypass_reason), "made_spool", session->made_spool ? Py_True : Py_False, "load_seconds",
        (double)session->load_ns / 1e9, "pattern_hits", (unsigned long long)session->pattern_hits, "source_hits",
        (unsigned long long)session->source_hits);
}

PyDoc_STRVAR(
    inspect_image_doc, "inspect_image($module, path, identity=None, /)\n--\n\n"
                       "What an image holds: {'bytes', 'modules', 'directories', 'patterns', 'sources', 'encoding', "
                       "'built' (seconds since\n"
                       "the epoch), 'identity'}. Every checksum is compared. Raises FileNotFoundError if there is "
                       "none, ValueError with the reason\n"
                       "for anything else that makes it unusable, other than `identity` included.");

static PyObject *
loader_inspect_image(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *path;
    const char *identity = NULL;
    if (!PyArg_ParseTuple(arguments, "O&|z:inspect_image", PyUnicode_FSConverter, &path, &identity)) {
        return NULL;
    }
    struct image image;
    bool missing;
    const char *reason = image_open(&image, PyBytes_AS_STRING(path), identity, &missing);
    if (reason == NULL && (reason = image_verify_all(&image)) != NULL) {
        image_close(&image);
    }
    if (reason != NULL) {
        PyErr_SetString(missing ? PyExc_FileNotFoundError : PyExc_ValueError, reason);
        Py_DECREF(path);
        return NULL;
    }
    uint32_t modules = 0, directories = 0, patterns = 0, sources = 0;
    for (uint32_t i = 0; i < image.header->module_count; i++) {
        uint32_t flags = image_module_at(&image, i)->flags;
        modules += !(flags & (MODULE_LEFT_OUT | MODULE_PATTERN | MODULE_SOURCE));
        patterns += (flags & (MODULE_LEFT_OUT | MODULE_PATTERN)) == MODULE_PATTERN;
        sources += (flags & (MODULE_LEFT_OUT | MODULE_SOURCE)) == MODULE_SOURCE;
    }
    for (uint32_t i = 0; i < image.header->directory_count; i++) {
        directories += !(image_directory_at(&image, i)->flags & DIRECTORY_LEFT_OUT);
    }
    PyObject *result = Py_BuildValue(
        "{s:n,s:I,s:I,s:I,s:I,s:s,s:d,s:s#}", "bytes", (Py_ssize_t)image.size, "modules", modules, "directories",
        directories, "patterns", patterns, "sources", sources, "encoding",
        image.header->encoding == IMAGE_ENCODING_NATIVE ? "native" : "marshal", "built",
        (double)image.header->built_ns / 1e9, "identity", (const char *)image.bytes + sizeof(*image.header),
        (Py_ssize_t)image.header->identity_bytes);
    image_close(&image);
    Py_DECREF(path);
    return result;
}

PyDoc_STRVAR(
    end_with_parent_doc,
    "end_with_parent($module, parent, /)\n--\n\n"
    "Has this process killed when its parent ends. Returns whether `parent` (a process id) still is the parent.");

static PyObject *
loader_end_with_parent(PyObject *module, PyObject *parent)
{
    (void)module;
    long expected = PyLong_AsLong(parent);
    if (expected == -1 && PyErr_Occurred()) {
        return NULL;
    }
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    return PyBool_FromLong((long)getppid() == expected); /* it may have ended before */
}

PyDoc_STRVAR(
    source_code_doc, "source_code($module, payload, /)\n--\n\nThe code object in the payload (bytes) of a source "
                     "text's entry (sources.py), as the loader "
                     "makes it, but\nfor the file's name. Raises ValueError if it can't be had in this process.");

static PyObject *
loader_source_code(PyObject *module, PyObject *payload)
{
    (void)module;
    if (!PyBytes_Check(payload)) {
        PyErr_SetString(PyExc_TypeError, "payload must be bytes");
        return NULL;
    }
    PyObject *code = sources_code_in(PyBytes_AS_STRING(payload), (size_t)PyBytes_GET_SIZE(payload));
    if (code == NULL && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_ValueError, "no code here");
    }
    return code;
}

PyDoc_STRVAR(
    source_set_copies_doc, "source_set_copies($module, /)\n--\n\nHow often the compiler makes a constant set anew at "
    "most (csrc/sources.c).");

static PyObject *
loader_source_set_copies(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromLong(NATIVE_SET_COPIES);
}

PyDoc_STRVAR(
    checksum_doc, "checksum($module, data, /)\n--\n\nThe image's 64-bit checksum of a bytes-like object (checksum.h).");

static PyObject *
loader_checksum(PyObject *module, PyObject *data)
{
    (void)module;
    Py_buffer buffer;
    if (PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE) != 0) {
        return NULL;
    }
    uint64_t result = pycds_checksum(buffer.buf, (size_t)buffer.len);
    PyBuffer_Release(&buffer);
    return PyLong_FromUnsignedLongLong(result);
}

/* The surroundings of cache_root(), from Python objects. */
struct python_surroundings {
    PyObject *variables; /* dict of str */
    const char *home;
    PyObject *encoded[8]; /* owned: values handed out */
    size_t count;
};

static const char *
python_variable(void *context, const char *name)
{
    struct python_surroundings *given = context;
    PyObject *value = PyDict_GetItemString(given->variables, name);
    if (value == NULL || !PyUnicode_Check(value) || given->count == 8) {
        return NULL;
    }
    PyObject *bytes = PyUnicode_EncodeFSDefault(value);
    if (bytes == NULL) {
        PyErr_Clear();
        return NULL;
    }
    given->encoded[given->count++] = bytes;
    return PyBytes_AS_STRING(bytes);
}

static const char *
python_home(void *context)
{
    return ((struct python_surroundings *)context)->home;
}

PyDoc_STRVAR(
    cache_root_doc,
    "cache_root($module, platform, environ, home=None, /)\n--\n\n"
    "platformdirs.user_cache_dir('pycds-auto') for a platform ('linux', 'darwin', 'win32'), an environment (dict) and\n"
    "the home folder of the password database (None: none). None where platformdirs has no answer.");

static PyObject *
loader_cache_root(PyObject *module, PyObject *arguments)
{
    (void)module;
    const char *platform;
    struct python_surroundings given = {NULL, NULL, {NULL}, 0};
    if (!PyArg_ParseTuple(arguments, "sO!|z:cache_root", &platform, &PyDict_Type, &given.variables, &given.home)) {
        return NULL;
    }
    enum cache_platform which;
    if (strcmp(platform, "linux") == 0) {
        which = CACHE_LINUX;
    }
    else if (strcmp(platform, "darwin") == 0) {
        which = CACHE_DARWIN;
    }
    else if (strcmp(platform, "win32") == 0) {
        which = CACHE_WINDOWS;
    }
    else {
        PyErr_Format(PyExc_ValueError, "unknown platform: %s", platform);
        return NULL;
    }
    const struct cache_surroundings surroundings = {python_variable, python_home, &given};
    char out[4096];
    bool found = cache_root_for(which, &surroundings, out, sizeof(out));
    while (given.count > 0) {
        Py_DECREF(given.encoded[--given.count]);
    }
    if (!found) {
        Py_RETURN_NONE;
    }
    return PyUnicode_DecodeFSDefault(out);
}

/* ---- the module ---- */

static PyMethodDef methods[] = {
    {"activate", (PyCFunction)(void (*)(void))loader_activate, METH_FASTCALL, activate_doc},
    {"stats", loader_stats, METH_NOARGS, stats_doc},
    {"state", loader_state_report, METH_NOARGS, state_doc},
    {"stop_recording", loader_stop_recording, METH_NOARGS, stop_recording_doc},
    {"source_code", loader_source_code, METH_O, source_code_doc},
    {"source_set_copies", loader_source_set_copies, METH_NOARGS, source_set_copies_doc},
    {"inspect_image", loader_inspect_image, METH_VARARGS, inspect_image_doc},
    {"end_with_parent", loader_end_with_parent, METH_O, end_with_parent_doc},
    {"checksum", loader_checksum, METH_O, checksum_doc},
    {"cache_root", loader_cache_root, METH_VARARGS, cache_root_doc},
    {"native_reason", encoding_reason, METH_NOARGS, native_reason_doc},
    {"native_encode", encoding_encode, METH_VARARGS, native_encode_doc},
    {"native_verify", encoding_verify, METH_VARARGS, native_verify_doc},
    {"native_decode", encoding_decode, METH_VARARGS, native_decode_doc},
    {NULL, NULL, 0, NULL},
};

/* All owned references of the state that are not counted elsewhere. */
#define FOR_EACH_OBJECT(state, DO)                                                                                     \
    DO((state)->finder_type);                                                                                          \
    DO((state)->loader_type);                                                                                          \
    DO((state)->path_finder);                                                                                          \
    DO((state)->file_finder);                                                                                          \
    DO((state)->source_file_loader);                                                                                   \
    DO((state)->extension_file_loader);                                                                                \
    DO((state)->module_spec);                                                                                          \
    DO((state)->namespace_path);                                                                                       \
    DO((state)->zipimporter);                                                                                          \
    DO((state)->file_finder_find_spec);                                                                                \
    DO((state)->cache_tag);                                                                                            \
    DO((state)->plain_path_importer_cache);                                                                            \
    DO((state)->plain_get_spec);                                                                                       \
    DO((state)->standard_loaders);                                                                                     \
    DO((state)->loader_details);                                                                                       \
    DO((state)->standard_hook);                                                                                   \
    DO((state)->strings.path);                                                                                         \
    DO((state)->strings.name);                                                                                         \
    DO((state)->strings.loaders);                                                                                      \
    DO((state)->strings.origin);                                                                                       \
    DO((state)->strings.loader);                                                                                       \
    DO((state)->strings.set_fileattr);                                                                                 \
    DO((state)->strings.cached);                                                                                       \
    DO((state)->strings.locations);                                                                                    \
    DO((state)->strings.find_spec);                                                                                    \
    DO((state)->strings.fill_cache);                                                                                   \
    DO((state)->strings.get_spec);                                                                                     \
    DO((state)->strings.dunder_class);                                                                                 \
    DO((state)->strings.get_code);                                                                                     \
    DO((state)->strings.cache_tag);                                                                                    \
    DO((state)->strings.path_cache);                                                                                   \
    DO((state)->strings.path_mtime);                                                                                   \
    DO((state)->strings.re);                                                                                           \
    DO((state)->strings.loader_state);                                                                                 \
    DO((state)->strings.uninitialized_submodules);                                                                     \
    DO((state)->strings.pycache_prefix);                                                                               \
    DO((state)->strings.implementation);                                                                               \
    DO((state)->strings.meta_path);                                                                                    \
    DO((state)->strings.modules);                                                                                      \
    DO((state)->strings.path_hooks);                                                                                   \
    DO((state)->strings.path_importer_cache);                                                                          \
    DO((state)->strings.standard_output);                                                                              \
    DO((state)->strings.standard_error);                                                                               \
    DO((state)->system);                                                                                               \
    DO((state)->library);                                                                                              \
    DO((state)->hook_reference);                                                                                       \
    for (int i_ = 0; i_ < GUARDED_NAMESPACES; i_++) {                                                                  \
        DO((state)->namespaces[i_].dictionary);                                                                        \
        DO((state)->namespaces[i_].expected);                                                                          \
        DO((state)->namespaces[i_].places.items);                                                                      \
    }                                                                                                                  \
    for (int i_ = 0; i_ < GUARDED_HELPERS; i_++) {                                                                     \
        DO((state)->helpers[i_].type);                                                                                 \
        DO((state)->helpers[i_].expected);                                                                             \
    }                                                                                                                  \
    for (int i_ = 0; i_ < GUARDED_TYPES; i_++) {                                                                       \
        DO((state)->guarded[i_].type);                                                                                 \
    }                                                                                                                  \
    for (size_t i_ = 0; i_ < GUARDED_ATTRIBUTES; i_++) {                                                               \
        DO((state)->attributes[i_].name);                                                                              \
        DO((state)->attributes[i_].original);                                                                          \
    }

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    loader_state *state = PyModule_GetState(module);
    if (state == NULL) {
        return 0; /* never executed */
    }
    FOR_EACH_OBJECT(state, Py_VISIT)
    Py_VISIT(state->stand_in_type);
    int result = shortcuts_traverse(state, visit, arg);
    if (result == 0) {
        result = patterns_traverse(state, visit, arg);
    }
    if (result == 0) {
        result = classes_traverse(state, visit, arg);
    }
    if (result == 0) {
        result = sources_traverse(state, visit, arg);
    }
    return result != 0 ? result : finder_traverse(state, visit, arg);
}

static int
module_clear(PyObject *module)
{
    loader_state *state = PyModule_GetState(module);
    if (state == NULL) {
        return 0;
    }
    FOR_EACH_OBJECT(state, Py_CLEAR)
    for (int i = 0; i < GUARDED_NAMESPACES; i++) {
        free(state->namespaces[i].places.each);
        state->namespaces[i].places.each = NULL;
    }
    state->attribute_count = 0;
    finder_clear(state);
    loader_clear(state);
    shortcuts_clear(state);
    patterns_clear(state);
    classes_clear(state);
    sources_clear(state);
    finalization_clear(state);
    Py_CLEAR(state->stand_in_type); /* by which those before knew their own */
    return 0;
}

static void
module_free(void *module)
{
    loader_state *state = PyModule_GetState((PyObject *)module);
    if (state == NULL) {
        return;
    }
    module_clear((PyObject *)module);
    if (state->session != NULL && !state->session_is_armed) {
        session_free(state->session);
    }
    state->session = NULL;
}

static PyModuleDef_Slot slots[] = {
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

PyDoc_STRVAR(module_doc, "The part of pycds-auto that runs in the user's program: finder, loader, recorder.");

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pycds_auto._loader",
    .m_doc = module_doc,
    .m_size = sizeof(loader_state),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__loader(void)
{
    return PyModuleDef_Init(&definition);
}
