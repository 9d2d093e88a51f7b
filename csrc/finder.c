/* The finder: a memoised importlib.machinery.PathFinder.

   It stands directly before PathFinder in sys.meta_path and does what PathFinder.find_spec does: it asks each path
   entry in order (Lib/importlib/_bootstrap_external.py, PathFinder._get_spec, 3.11 to 3.15). Where the entry's finder
   is a FileFinder as the interpreter makes them, and the image holds the listing of its directory, one stat proves the
   listing and the entry is answered from it, as FileFinder.find_spec would: directory with __init__ first, then files
   by suffix, then a namespace portion. Everything else, and every doubt, is asked of the entry's own finder, in its
   place in the order. Finding nothing, we return None, and PathFinder looks again, so that what a program sees of a
   failed import (errors, the finders behind) is plain Python's own doing. Only where PathFinder is the last finder, and
   all path entries were answered from proved listings, is it spared that (shortcuts.c; 0.1 ms, ten to twenty times in a
   program: modules of other systems, optional ones). */
#include "state.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checksum.h"
#include "finalization.h"
#include "foreign_finder.h"
#include "patterns.h"
#include "recorder.h"
#include "results.h"
#include "shortcuts.h"

typedef struct {
    PyObject_HEAD
} finder_object;

/* One look-up on its way. */
struct search {
    bool asked; /* a path entry's own finder was asked: what it said is not proved */
    bool only_prove; /* nobody is to be asked: PathFinder will be */
    bool directly; /* importlib will ask the loader for the code next */
    PyObject *full_name, *target; /* borrowed */
    const char *tail; /* what follows the last dot, utf-8 */
    size_t tail_bytes;
    uint32_t hash;
};

enum answer {
    ANSWER_ERROR = -1, /* exception set */
    ANSWER_NOT_HERE, /* proved */
    ANSWER_FOUND, /* *result is a spec */
    ANSWER_PORTION, /* *result is a list of namespace portions */
    ANSWER_ASK, /* not proved: ask the entry's finder */
    ANSWER_DECLINE, /* all of this look-up is PathFinder's */
};

/* stat without the interpreter's lock, as os.stat does: a slow file system holds up this thread only. */
static int
stat_unlocked(const char *path, struct stat *status)
{
    int result;
    Py_BEGIN_ALLOW_THREADS
    result = stat(path, status);
    Py_END_ALLOW_THREADS
    return result;
}

/* ---- specs, as importlib's spec_from_file_location makes them ---- */

/* An object of a class that a class statement made, with nothing in it: object.__new__(type). Not tp_alloc alone: on
   3.11 and 3.12 it is object_new (Objects/typeobject.c) that gives the object room for attributes, and without that it
   would get a dictionary at its first attribute, of three times the size. */
static PyObject *
new_instance(PyObject *type)
{
    PyObject *no_arguments = PyTuple_New(0); /* of which there is only one */
    PyObject *instance =
        no_arguments == NULL ? NULL : PyBaseObject_Type.tp_new((PyTypeObject *)type, no_arguments, NULL);
    Py_XDECREF(no_arguments);
    return instance;
}

/* ModuleSpec.__init__'s attributes, in its order (Lib/importlib/_bootstrap.py, 3.11 to 3.15), for a module with a
   file. */
static bool
fill_spec(
    loader_state *state, PyObject *spec, PyObject *name, PyObject *loader, PyObject *origin, PyObject *locations)
{
    PyObject *submodules = PyList_New(0);
    bool filled = submodules != NULL && PyObject_GenericSetAttr(spec, state->strings.name, name) == 0
                  && PyObject_GenericSetAttr(spec, state->strings.loader, loader) == 0
                  && PyObject_GenericSetAttr(spec, state->strings.origin, origin) == 0
                  && PyObject_GenericSetAttr(spec, state->strings.loader_state, Py_None) == 0
                  && PyObject_GenericSetAttr(spec, state->strings.locations, locations) == 0
                  && PyObject_GenericSetAttr(spec, state->strings.uninitialized_submodules, submodules) == 0
                  && PyObject_GenericSetAttr(spec, state->strings.set_fileattr, Py_True) == 0
                  && PyObject_GenericSetAttr(spec, state->strings.cached, Py_None) == 0;
    Py_XDECREF(submodules);
    return filled;
}

/* ModuleSpec(name, loader, origin=origin) with a file; that gets its submodule_search_locations. New reference. */
static PyObject *
make_spec(loader_state *state, PyObject *name, PyObject *loader, PyObject *origin, PyObject *locations)
{
    PyObject *spec;
    if (shortcuts_know_specs(state)) {
        spec = new_instance(state->module_spec);
        if (spec != NULL && !fill_spec(state, spec, name, loader, origin, locations)) {
            Py_CLEAR(spec);
        }
        return spec;
    }
    PyObject *arguments[] = {name, loader, origin};
    PyObject *keywords = PyTuple_Pack(1, state->strings.origin);
    if (keywords == NULL) {
        return NULL;
    }
    spec = PyObject_Vectorcall(state->module_spec, arguments, 2, keywords);
    Py_DECREF(keywords);
    if (spec != NULL
        && (PyObject_SetAttr(spec, state->strings.set_fileattr, Py_True) != 0
            || (locations != Py_None && PyObject_SetAttr(spec, state->strings.locations, locations) != 0))) {
        Py_CLEAR(spec);
    }
    return spec;
}

/* A loader, as FileLoader.__init__ makes it. That has been seen to be the interpreter's own
   (importlib_is_untouched). */
static PyObject *
make_loader(loader_state *state, PyObject *type, PyObject *name, PyObject *path)
{
    PyObject *loader = new_instance(type);
    if (loader != NULL
        && (PyObject_GenericSetAttr(loader, state->strings.name, name) != 0
            || PyObject_GenericSetAttr(loader, state->strings.path, path) != 0)) {
        Py_CLEAR(loader);
    }
    return loader;
}

/* Text put together piece by piece; `at` becomes NULL when it doesn't fit. */
struct builder {
    char *at, *end;
};

static void
add_text(struct builder *builder, const char *text, size_t bytes)
{
    if (builder->at != NULL && bytes < (size_t)(builder->end - builder->at)) {
        memcpy(builder->at, text, bytes);
        builder->at += bytes;
        *builder->at = '\0';
    }
    else {
        builder->at = NULL;
    }
}

PyObject *
finder_cached_path(loader_state *state, PyObject *origin)
{
    PyObject *prefix = system_object(state, state->strings.pycache_prefix);
    PyObject *implementation = system_object(state, state->strings.implementation);
    PyObject *tag = implementation == NULL ? NULL : PyObject_GetAttr(implementation, state->strings.cache_tag);
    Py_XDECREF(tag);
    /* encoded apart: the str would keep its utf-8, which sys.getsizeof shows */
    PyObject *encoded = prefix == Py_None && tag == state->cache_tag ? PyUnicode_AsUTF8String(origin) : NULL;
    const char *path = encoded == NULL ? NULL : PyBytes_AS_STRING(encoded);
    Py_ssize_t size = encoded == NULL ? 0 : PyBytes_GET_SIZE(encoded);
    const char *slash = path == NULL || state->session == NULL ? NULL : strrchr(path, '/');
    size_t stem = slash == NULL ? 0 : (size_t)(path + size - slash - 1);
    if (stem < 4 || memcmp(path + size - 3, ".py", 3) != 0) {
        PyErr_Clear();
        Py_XDECREF(encoded);
        return NULL;
    }
    static const char between[] = "/__pycache__/";
    char text[PYCDS_PATH_BYTES + 512];
    struct builder builder = {text, text + sizeof(text)};
    add_text(&builder, path, (size_t)(slash - path));
    add_text(&builder, between, sizeof(between) - 1);
    add_text(&builder, slash + 1, stem - 3);
    add_text(&builder, state->session->cached_suffix, strlen(state->session->cached_suffix));
    PyObject *result = builder.at == NULL ? NULL : PyUnicode_DecodeUTF8(text, builder.at - text, "strict");
    PyErr_Clear();
    Py_DECREF(encoded);
    return result;
}

/* Is the code of the source `path` in the image (however old)? */
static bool
is_archived(loader_state *state, const char *path, size_t path_bytes)
{
    if (!session_serves(state->session)) {
        return false;
    }
    const struct module_record *module = image_module(&state->session->image, path, path_bytes);
    return module != NULL && !(module->flags & MODULE_LEFT_OUT);
}

static void
note_miss(loader_state *state, const char *path)
{
    state->session->misses++;
    recorder_note(state->session, MISS_MODULE, path);
}

/* FileFinder's _path_isfile: a listing has names only, and what is mounted over one, or behind a directory that may be
   listed but not searched, doesn't change that. */
static bool
is_file(const loader_state *state, const char *path, struct stat *status)
{
    return state->session->settings.trust || (stat_unlocked(path, status) == 0 && S_ISREG(status->st_mode));
}

/* The spec of a source file folder/stem.py; `is_package`: stem is "__init__". `module`: its record or NULL. NULL
   without an exception: there is no such file. */
static PyObject *
source_spec(
    loader_state *state, const struct search *search, const char *folder, size_t folder_bytes, const char *stem,
    size_t stem_bytes, bool is_package, const struct module_record *module)
{
    char path[PYCDS_PATH_BYTES];
    struct builder builder = {path, path + sizeof(path)};
    add_text(&builder, folder, folder_bytes);
    add_text(&builder, "/", 1);
    add_text(&builder, stem, stem_bytes);
    add_text(&builder, ".py", 3);
    if (builder.at == NULL) {
        PyErr_SetString(PyExc_OSError, "path too long");
        return NULL;
    }
    struct stat status;
    if (!is_file(state, path, &status)) {
        return NULL;
    }
    bool archived = module != NULL && !(module->flags & MODULE_LEFT_OUT);
    PyObject *origin = PyUnicode_DecodeUTF8(path, builder.at - path, "strict");
    PyObject *type = archived ? loader_type(state) : state->source_file_loader;
    PyObject *loader = origin == NULL || type == NULL ? NULL : make_loader(state, type, search->full_name, origin);
    PyObject *locations = loader == NULL ? NULL
                          : is_package   ? Py_BuildValue("[s#]", folder, (Py_ssize_t)folder_bytes)
                                         : Py_NewRef(Py_None);
    PyObject *spec = locations == NULL ? NULL : make_spec(state, search->full_name, loader, origin, locations);
    if (spec != NULL && archived && search->directly && !state->session->settings.trust) {
        Py_XSETREF(state->found.loader, Py_NewRef(loader));
        state->found.status = status;
    }
    Py_XDECREF(origin);
    Py_XDECREF(loader);
    Py_XDECREF(locations);
    if (spec != NULL && !archived) {
        note_miss(state, path);
    }
    return spec;
}

/* NULL without an exception: there is no such file. */
static PyObject *
extension_spec(loader_state *state, const struct search *search, const struct path_entry *entry, int suffix)
{
    char path[PYCDS_PATH_BYTES + 512];
    struct stat status;
    int bytes = snprintf(
        path, sizeof(path), "%s/%s%s", entry->path, search->tail, state->extension_suffixes[suffix]);
    if ((size_t)bytes >= sizeof(path) || !is_file(state, path, &status)) {
        return NULL;
    }
    PyObject *origin = PyUnicode_DecodeUTF8(path, bytes, "strict");
    if (origin == NULL) {
        return NULL;
    }
    PyObject *arguments[] = {search->full_name, origin};
    PyObject *loader = PyObject_Vectorcall(state->extension_file_loader, arguments, 2, NULL);
    PyObject *spec = loader == NULL ? NULL : make_spec(state, search->full_name, loader, origin, Py_None);
    Py_XDECREF(loader);
    Py_DECREF(origin);
    return spec;
}

/* ---- one path entry, from its listing ---- */

/* Does the directory still have the listing of the image? One stat. `must_read`: and could this process list it? */
static bool
prove(loader_state *state, const struct directory_record *directory, const char *path, bool must_read)
{
    struct stat now;
    return state->session->settings.trust
           || (stat_unlocked(path, &now) == 0 && directory_matches(directory, &now)
               && (!must_read || stat_may_be_read(path, &now)));
}

static void
note_directory(loader_state *state, const char *path)
{
    recorder_note(state->session, MISS_DIRECTORY, path[0] ? path : "/");
}

/* What FileFinder.find_spec would say of a name in a proved listing. */
static enum answer
answer_from_listing(
    loader_state *state, const struct search *search, const struct path_entry *entry,
    const struct listing_name *name, PyObject **result)
{
    struct image *image = &state->session->image;
    bool is_portion = false;
    char folder[PYCDS_PATH_BYTES];
    if (name->flags & (NAME_BYTECODE | NAME_UNCERTAIN)) {
        return ANSWER_ASK;
    }
    if (name->flags & NAME_DIRECTORY) {
        if ((size_t)snprintf(folder, sizeof(folder), "%s/%s", entry->path, search->tail) >= sizeof(folder)) {
            return ANSWER_ASK;
        }
        const struct directory_record *directory =
            name->directory == 0 ? NULL : image_directory_at(image, name->directory - 1);
        const struct listing *listing = directory == NULL ? NULL : image_listing(image, directory);
        if (listing == NULL || directory->path_bytes != strlen(folder)
            || memcmp(image_text(image, directory->path), folder, directory->path_bytes) != 0
            || !prove(state, directory, folder, false)) {
            if (directory == NULL || !(directory->flags & DIRECTORY_LEFT_OUT)) {
                struct stat status; /* a name without a suffix may be any file: only folders are worth a record */
                if (stat(folder, &status) == 0 && S_ISDIR(status.st_mode)) {
                    note_directory(state, folder);
                }
            }
            return ANSWER_ASK;
        }
        static const char init[] = "__init__";
        const struct listing_name *package =
            listing_find(listing, init, sizeof(init) - 1, (uint32_t)pycds_checksum(init, sizeof(init) - 1));
        if (package != NULL && (package->flags & ~NAME_DIRECTORY) != 0) {
            if ((package->flags & ~NAME_DIRECTORY) != NAME_SOURCE) {
                return ANSWER_ASK;
            }
            const struct module_record *module =
                package->module == 0 ? NULL : image_module_at(image, package->module - 1);
            *result = source_spec(state, search, folder, strlen(folder), init, sizeof(init) - 1, true, module);
            return *result != NULL ? ANSWER_FOUND : PyErr_Occurred() ? ANSWER_ERROR : ANSWER_ASK;
        }
        is_portion = true;
    }
    if (name->flags & NAME_EXTENSIONS) {
        int suffix = 0;
        while (!(name->flags >> (NAME_EXTENSION_SHIFT + suffix) & 1)) {
            suffix++;
        }
        if ((size_t)suffix >= state->extension_suffix_count) {
            return ANSWER_ASK;
        }
        *result = extension_spec(state, search, entry, suffix);
        return *result != NULL ? ANSWER_FOUND : PyErr_Occurred() ? ANSWER_ERROR : ANSWER_ASK;
    }
    if (name->flags & NAME_SOURCE) {
        const struct module_record *module = name->module == 0 ? NULL : image_module_at(image, name->module - 1);
        *result = source_spec(
            state, search, entry->path, entry->path_bytes, search->tail, search->tail_bytes, false, module);
        return *result != NULL ? ANSWER_FOUND : PyErr_Occurred() ? ANSWER_ERROR : ANSWER_ASK;
    }
    if (is_portion) {
        *result = Py_BuildValue("[s]", folder);
        return *result == NULL ? ANSWER_ERROR : ANSWER_PORTION;
    }
    return ANSWER_NOT_HERE;
}

/* ---- path entries ---- */

/* A new, empty entry; NULL: exception. Entries before may have moved. */
static struct path_entry *
add_entry(loader_state *state)
{
    if (state->entry_count == state->entry_capacity) {
        size_t capacity = state->entry_capacity ? 2 * state->entry_capacity : 64;
        struct path_entry *grown = PyMem_Realloc(state->entries, capacity * sizeof(*grown));
        if (grown == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        state->entries = grown;
        state->entry_capacity = capacity;
    }
    struct path_entry *entry = &state->entries[state->entry_count++];
    memset(entry, 0, sizeof(*entry));
    return entry;
}

/* Are a finder's `_loaders` those of FileFinders that the interpreter makes? What only compares equal to them isn't. */
static bool
are_standard(loader_state *state, PyObject *loaders)
{
    PyObject *standard = state->standard_loaders;
    if (!PyList_CheckExact(loaders) || PyList_GET_SIZE(loaders) != PyList_GET_SIZE(standard)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(standard); i++) {
        PyObject *pair = PyList_GET_ITEM(loaders, i), *expected = PyList_GET_ITEM(standard, i);
        if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2 || !PyUnicode_CheckExact(PyTuple_GET_ITEM(pair, 0))
            || PyUnicode_Compare(PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(expected, 0)) != 0
            || PyTuple_GET_ITEM(pair, 1) != PyTuple_GET_ITEM(expected, 1)) {
            return false;
        }
    }
    return true;
}

/* Learns what a FileFinder's directory is in the image. Returns the entry; NULL: exception. */
static struct path_entry *
learn_entry(loader_state *state, PyObject *finder)
{
    PyObject *finder_path = PyObject_GetAttr(finder, state->strings.path);
    PyObject *loaders = finder_path == NULL ? NULL : PyObject_GetAttr(finder, state->strings.loaders);
    bool standard = loaders != NULL && are_standard(state, loaders);
    PyObject *items = loaders == NULL ? NULL : standard ? PyList_AsTuple(loaders) : PyTuple_New(0);
    struct path_entry *entry = items == NULL ? NULL : add_entry(state); /* what came before may have imported, too */
    if (entry == NULL) {
        Py_XDECREF(items);
        Py_XDECREF(loaders);
        Py_XDECREF(finder_path);
        return NULL;
    }
    size_t at = (size_t)(entry - state->entries);
    entry->finder = Py_NewRef(finder);
    entry->finder_path = finder_path;
    entry->loaders = loaders;
    entry->loader_items = items;
    PyObject *index = PyLong_FromSize_t(at);
    if (index == NULL || PyDict_SetItem(state->entry_index, finder, index) != 0) {
        Py_XDECREF(index);
        return NULL;
    }
    Py_DECREF(index);
    entry = &state->entries[at];
    if (!standard || !PyUnicode_CheckExact(finder_path)) {
        return entry;
    }
    PyObject *keep;
    const char *text;
    size_t bytes;
    if (!result_text(finder_path, &keep, &text, &bytes)) {
        return PyErr_Occurred() ? NULL : entry; /* a path with undecodable bytes */
    }
    if (bytes == 0 || text[0] != '/' || bytes >= PYCDS_PATH_BYTES || strlen(text) != bytes) {
        Py_XDECREF(keep);
        return entry;
    }
    while (bytes > 0 && text[bytes - 1] == '/') {
        bytes--;
    }
    entry->path = PyMem_Malloc(bytes + 1);
    if (entry->path == NULL) {
        Py_XDECREF(keep);
        PyErr_NoMemory();
        return NULL;
    }
    memcpy(entry->path, text, bytes);
    entry->path[bytes] = '\0';
    entry->path_bytes = bytes;
    Py_XDECREF(keep);
    if (session_serves(state->session)) {
        struct image *image = &state->session->image;
        entry->directory = image_directory(image, entry->path, entry->path_bytes);
        entry->listing = entry->directory == NULL ? NULL : image_listing(image, entry->directory);
        entry->noted = entry->directory != NULL && entry->directory->flags & DIRECTORY_LEFT_OUT;
    }
    return entry;
}

/* Is the FileFinder of an entry as it was when we looked: path, loaders, and no find_spec of its own? */
static bool
finder_is_unchanged(loader_state *state, const struct path_entry *entry)
{
    PyObject *path = PyObject_GetAttr(entry->finder, state->strings.path);
    PyObject *loaders = PyObject_GetAttr(entry->finder, state->strings.loaders);
    PyObject *find_spec = PyObject_GetAttr(entry->finder, state->strings.find_spec);
    bool same = path == entry->finder_path && loaders == entry->loaders && find_spec != NULL
                && PyMethod_Check(find_spec) && PyMethod_GET_FUNCTION(find_spec) == state->file_finder_find_spec
                && PyList_GET_SIZE(loaders) == PyTuple_GET_SIZE(entry->loader_items);
    for (Py_ssize_t i = 0; same && i < PyTuple_GET_SIZE(entry->loader_items); i++) {
        same = PyList_GET_ITEM(loaders, i) == PyTuple_GET_ITEM(entry->loader_items, i);
    }
    Py_XDECREF(path);
    Py_XDECREF(loaders);
    Py_XDECREF(find_spec);
    PyErr_Clear();
    return same;
}

/* The entry of a finder; NULL with an exception, or NULL without one: not a FileFinder, ask it. */
static struct path_entry *
entry_of(loader_state *state, PyObject *finder)
{
    if ((PyObject *)Py_TYPE(finder) != state->file_finder) {
        return NULL;
    }
    PyObject *index = PyDict_GetItemWithError(state->entry_index, finder);
    if (index != NULL) {
        return &state->entries[PyLong_AsSize_t(index)];
    }
    /* the bound: a program that empties sys.path_importer_cache again and again makes new finders without end */
    return PyErr_Occurred() || state->entry_count >= 4096 ? NULL : learn_entry(state, finder);
}

/* Do sys.path_hooks start with the interpreter's own two, so that a directory is theirs whatever follows (zipimporter
   refuses it, FileFinder takes it)? `alone`: does nothing follow, so that every path entry is theirs, or nobody's? */
static bool
hooks_are_standard(loader_state *state, bool *alone)
{
    PyObject *hooks = system_object(state, state->strings.path_hooks);
    *alone = hooks != NULL && PyList_CheckExact(hooks) && PyList_GET_SIZE(hooks) == 2;
    return hooks != NULL && PyList_CheckExact(hooks) && PyList_GET_SIZE(hooks) >= 2 && state->zipimporter != NULL
           && state->standard_hook != NULL && PyList_GET_ITEM(hooks, 0) == state->zipimporter
           && PyList_GET_ITEM(hooks, 1) == state->standard_hook;
}

/* Is the pending exception one that importlib ran into itself, rather than what a signal's handler raised there? Then
   it comes again when PathFinder looks, and its traceback shows PathFinder's frames, as plain Python's. Clears it if
   so. */
static bool
is_importlib_error(void)
{
    if (!PyErr_ExceptionMatches(PyExc_OSError) && !PyErr_ExceptionMatches(PyExc_ValueError)) {
        return false;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyTracebackObject *last = (PyTracebackObject *)traceback;
    while (last != NULL && last->tb_next != NULL) {
        last = last->tb_next;
    }
    bool frozen = false;
    if (last != NULL) {
        PyCodeObject *code = PyFrame_GetCode(last->tb_frame);
        static const char start[] = "<frozen ";
        PyObject *prefix = PyUnicode_FromStringAndSize(start, sizeof(start) - 1);
        frozen = prefix != NULL
                 && PyUnicode_Tailmatch(code->co_filename, prefix, 0, PyUnicode_GET_LENGTH(code->co_filename), -1) == 1;
        PyErr_Clear();
        Py_XDECREF(prefix);
        Py_DECREF(code);
    }
    PyErr_Restore(type, value, traceback);
    if (frozen) {
        PyErr_Clear();
    }
    return frozen;
}

/* Is it the path of a directory that is there? `known`: does the image know it? */
static bool
is_directory(loader_state *state, PyObject *entry, bool *known)
{
    PyObject *keep;
    const char *text;
    size_t bytes;
    struct stat now;
    *known = false;
    if (!result_text(entry, &keep, &text, &bytes)) {
        PyErr_Clear();
        return false;
    }
    bool there = bytes > 1 && text[0] == '/' && text[bytes - 1] != '/' && strlen(text) == bytes
                 && stat_unlocked(text, &now) == 0 && S_ISDIR(now.st_mode);
    *known = there && session_serves(state->session) && image_directory(&state->session->image, text, bytes) != NULL;
    Py_XDECREF(keep);
    return there;
}

/* PathFinder._path_importer_cache(entry) for an entry that isn't empty: *finder (a new reference; None: nobody's) is
   that of a path entry, made and remembered if need be. ANSWER_ASK; ANSWER_ERROR; ANSWER_DECLINE: a program's own hook
   would be asked, or there is an error to raise, and either shows by which way it was come to. */
static enum answer
finder_for(loader_state *state, PyObject *cache, PyObject *entry, PyObject **finder)
{
    PyObject *found = PyDict_GetItemWithError(cache, entry);
    if (found != NULL || PyErr_Occurred()) {
        *finder = Py_XNewRef(found);
        return found == NULL ? ANSWER_ERROR : ANSWER_ASK;
    }
    bool known, alone;
    if (!hooks_are_standard(state, &alone) || (!is_directory(state, entry, &known) && !alone)) {
        return ANSWER_DECLINE;
    }
    if (!known) {
        *finder = PyObject_CallOneArg(state->plain_path_importer_cache, entry);
        return *finder != NULL ? ANSWER_ASK : is_importlib_error() ? ANSWER_DECLINE : ANSWER_ERROR;
    }
    PyObject *arguments[4] = {entry};
    size_t count = 1;
    for (; count < 4 && (Py_ssize_t)count <= PyTuple_GET_SIZE(state->loader_details); count++) {
        arguments[count] = PyTuple_GET_ITEM(state->loader_details, count - 1);
    }
    *finder = PyObject_Vectorcall(state->file_finder, arguments, count, NULL);
    if (*finder != NULL && PyDict_SetItem(cache, entry, *finder) != 0) {
        Py_CLEAR(*finder);
    }
    return *finder == NULL ? ANSWER_ERROR : ANSWER_ASK;
}

/* The finder of the current directory, which "" in sys.path stands for, as finder_for. */
static enum answer
finder_of_current(loader_state *state, PyObject *cache, PyObject **finder)
{
    char folder[PYCDS_PATH_BYTES];
    if (getcwd(folder, sizeof(folder)) == NULL) {
        if (errno != ENOENT) {
            return ANSWER_DECLINE;
        }
        *finder = Py_NewRef(Py_None);
        return ANSWER_ASK;
    }
    PyObject *entry = PyUnicode_DecodeFSDefault(folder);
    enum answer answer = entry == NULL ? ANSWER_ERROR : finder_for(state, cache, entry, finder);
    Py_XDECREF(entry);
    return answer;
}


/* May a finder be asked from here? Where it is a program's own, or has a path or loaders that are, their code might see
   that PathFinder's frames are missing. */
static bool
may_be_asked(loader_state *state, PyObject *finder)
{
    if ((PyObject *)Py_TYPE(finder) == state->zipimporter) {
        return true;
    }
    PyObject *index = (PyObject *)Py_TYPE(finder) != state->file_finder
                          ? NULL
                          : PyDict_GetItemWithError(state->entry_index, finder);
    PyErr_Clear();
    if (index == NULL) {
        return false;
    }
    const struct path_entry entry = state->entries[PyLong_AsSize_t(index)]; /* a copy: the array may move */
    return PyTuple_GET_SIZE(entry.loader_items) > 0 && PyUnicode_CheckExact(entry.finder_path)
           && finder_is_unchanged(state, &entry);
}

/* Asks an entry's own finder, and reads its spec as PathFinder._get_spec does. */
static enum answer
ask(loader_state *state, struct search *search, PyObject *finder, PyObject **result)
{
    search->asked = true;
    if (!may_be_asked(state, finder)) {
        return ANSWER_DECLINE; /* may do anything when asked, and if it has nothing PathFinder would ask it once more */
    }
    PyObject *arguments[] = {finder, search->full_name, search->target};
    PyObject *spec = PyObject_VectorcallMethod(state->strings.find_spec, arguments, 3, NULL);
    if (spec == NULL) {
        return is_importlib_error() ? ANSWER_DECLINE : ANSWER_ERROR;
    }
    if (spec == Py_None) {
        Py_DECREF(spec);
        return ANSWER_NOT_HERE;
    }
    PyObject *loader = PyObject_GetAttr(spec, state->strings.loader);
    if (loader == NULL) {
        Py_DECREF(spec);
        return ANSWER_ERROR;
    }
    if (loader == Py_None) {
        PyObject *portions = PyObject_GetAttr(spec, state->strings.locations);
        Py_DECREF(loader);
        Py_DECREF(spec);
        if (portions == Py_None) {
            Py_DECREF(portions);
            PyErr_SetString(PyExc_ImportError, "spec missing loader");
            return ANSWER_ERROR;
        }
        *result = portions;
        return portions == NULL ? ANSWER_ERROR : ANSWER_PORTION;
    }
    enum answer answer = ANSWER_FOUND;
    if ((PyObject *)Py_TYPE(loader) == state->source_file_loader
        && (PyObject *)Py_TYPE(finder) == state->file_finder) {
        /* found the ordinary way; its code may be in the image all the same */
        PyObject *path = PyObject_GetAttr(loader, state->strings.path), *keep = NULL;
        const char *text;
        size_t bytes;
        if (path == NULL || !PyUnicode_CheckExact(path) || !result_text(path, &keep, &text, &bytes)) {
            PyErr_Clear();
        }
        else if (is_archived(state, text, bytes)) {
            PyObject *loader_arguments[] = {search->full_name, path};
            PyObject *type = loader_type(state);
            PyObject *ours = type == NULL ? NULL : PyObject_Vectorcall(type, loader_arguments, 2, NULL);
            if (ours == NULL || PyObject_SetAttr(spec, state->strings.loader, ours) != 0) {
                answer = ANSWER_ERROR;
            }
            Py_XDECREF(ours);
        }
        else if (text[0] == '/') {
            note_miss(state, text);
        }
        Py_XDECREF(keep);
        Py_XDECREF(path);
    }
    Py_DECREF(loader);
    if (answer == ANSWER_ERROR) {
        Py_DECREF(spec);
        return answer;
    }
    *result = spec;
    return answer;
}

/* Is it proved that the current directory, "" in sys.path, has no such name? importlib asks getcwd and stats what it
   says. While a stat of "." shows the directory that "" stood for last, a name that its listing lacks is not here,
   whatever the directory is called by now. */
static bool
current_directory_lacks(loader_state *state, const struct search *search, PyObject *cache)
{
    if (state->current_directory == 0) {
        return false;
    }
    const struct path_entry entry = state->entries[state->current_directory - 1];
    return entry.listing != NULL && PyDict_GetItemWithError(cache, entry.finder_path) == entry.finder
           && finder_is_unchanged(state, &entry)
           && listing_find(entry.listing, search->tail, search->tail_bytes, search->hash) == NULL
           && prove(state, entry.directory, ".", false);
}

static enum answer
search_entry(loader_state *state, struct search *search, PyObject *cache, PyObject *path, PyObject **result)
{
    bool is_current = PyUnicode_GET_LENGTH(path) == 0;
    if (is_current && current_directory_lacks(state, search, cache)) {
        return ANSWER_NOT_HERE;
    }
    PyObject *finder = NULL;
    enum answer answer =
        is_current ? finder_of_current(state, cache, &finder) : finder_for(state, cache, path, &finder);
    if (answer != ANSWER_ASK || finder == Py_None) {
        Py_XDECREF(finder);
        return answer != ANSWER_ASK ? answer : ANSWER_NOT_HERE;
    }
    struct path_entry *known = entry_of(state, finder);
    if (known == NULL && PyErr_Occurred()) {
        answer = ANSWER_ERROR;
    }
    else if (known != NULL && known->path != NULL) {
        /* A copy: below the lock is released and Python code runs, and the array may move. `path` stays. */
        const struct path_entry entry = *known;
        const size_t index = (size_t)(known - state->entries);
        bool proved = false;
        if (is_current) {
            state->current_directory = index + 1;
        }
        if (entry.listing != NULL) {
            const struct listing_name *name =
                listing_find(entry.listing, search->tail, search->tail_bytes, search->hash);
            /* FileFinder lists its directory once, and then compares times */
            if (finder_is_unchanged(state, &entry)
                && prove(state, entry.directory, entry.path[0] ? entry.path : "/", !entry.proved)) {
                proved = state->entries[index].proved = true;
                if (!entry.proved) {
                    state->entries[index].finder_behind = state->finders_are_behind = true;
                }
                answer = name == NULL ? ANSWER_NOT_HERE : answer_from_listing(state, search, &entry, name, result);
            }
        }
        if (!proved) {
            state->entries[index].listing = NULL; /* for good: the finder's own cache serves from here on */
            if (!entry.noted) {
                state->entries[index].noted = true;
                note_directory(state, entry.path);
            }
        }
    }
    if (answer == ANSWER_ASK) {
        answer = search->only_prove ? ANSWER_DECLINE : ask(state, search, finder, result);
    }
    Py_DECREF(finder);
    return answer;
}

/* ---- imports that are looked on at ---- */

/* Sets a FileFinder's _path_cache and _path_mtime to what its _fill_cache would have, had it been asked in our place:
   the listing of the time that ours was proved at. Whatever is amiss, it will see that the time differs, and fill
   them. */
static int
bring_finder_up_to_date(loader_state *state, const struct path_entry *entry)
{
    PyObject *mtime = PyObject_GetAttr(entry->finder, state->strings.path_mtime);
    long unset = mtime != NULL && PyLong_CheckExact(mtime) ? PyLong_AsLong(mtime) : 0;
    Py_XDECREF(mtime);
    if (unset != -1) { /* FileFinder.__init__'s value; it was asked in the meantime, or is not ours to touch */
        return PyErr_Occurred() ? RET_ERROR : RET_OK;
    }
    DIR *directory = opendir(entry->path[0] ? entry->path : "/");
    PyObject *names = PySet_New(NULL);
    int result = directory != NULL && names != NULL ? RET_OK : RET_ERROR;
    for (struct dirent *item; result == RET_OK && (item = readdir(directory)) != NULL;) {
        if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0) {
            PyObject *name = PyUnicode_DecodeFSDefault(item->d_name);
            result = name == NULL ? RET_ERROR : PySet_Add(names, name);
            Py_XDECREF(name);
        }
    }
    if (directory != NULL) {
        closedir(directory);
    }
    if (result == RET_OK) {
        /* Modules/posixmodule.c, fill_time, 3.11 to 3.13 */
        int64_t time = entry->directory->mtime_ns;
        mtime = PyFloat_FromDouble((double)(time / 1000000000) + 1e-9 * (double)(time % 1000000000));
        result = mtime == NULL || PyObject_SetAttr(entry->finder, state->strings.path_cache, names) != 0
                         || PyObject_SetAttr(entry->finder, state->strings.path_mtime, mtime) != 0
                     ? RET_ERROR
                     : RET_OK;
        Py_XDECREF(mtime);
    }
    Py_XDECREF(names);
    return result;
}

/* Something begins to look on: from here on FileFinders are asked, and those that we answered for must not list their
   directories now, which plain Python's did long before (an audit event, a frame of a profile). */
static void
bring_finders_up_to_date(loader_state *state)
{
    state->finders_are_behind = false;
    for (size_t i = 0; i < state->entry_count; i++) {
        if (state->entries[i].finder_behind) {
            state->entries[i].finder_behind = false;
            if (bring_finder_up_to_date(state, &state->entries[i]) != RET_OK) {
                PyErr_Clear();
            }
        }
    }
}

/* ---- find_spec ---- */

/* Do we stand directly before PathFinder, for a module of this name? A finder that a program put between is asked in
   its turn, unless it would only ask PathFinder. */
static bool
stands_before_path_finder(loader_state *state, PyObject *self, PyObject *name)
{
    PyObject *finders = system_object(state, state->strings.meta_path);
    if (finders == NULL || !PyList_Check(finders)) {
        return false;
    }
    for (Py_ssize_t i = 0; i + 1 < PyList_GET_SIZE(finders); i++) {
        if (PyList_GET_ITEM(finders, i) == self) {
            while (++i < PyList_GET_SIZE(finders) && PyList_GET_ITEM(finders, i) != state->path_finder) {
                if (!foreign_finder_delegates(state, PyList_GET_ITEM(finders, i), name)) {
                    return false;
                }
            }
            return i < PyList_GET_SIZE(finders);
        }
    }
    return false;
}

/* ---- names that are nowhere ---- */

/* site asks for these two at every start, and almost never are they there. */
static bool
is_customization(const char *name)
{
    return strcmp(name, "sitecustomize") == 0 || strcmp(name, "usercustomize") == 0;
}

/* Is it site that asks, and does nobody look after PathFinder? site.execsitecustomize and execusercustomize
   (Lib/site.py, 3.11 to 3.15) take a ModuleNotFoundError of that name for the answer and drop it, so it can come from
   here: it spares PathFinder's listing of every directory on sys.path, half of what a start costs in imports. */
static bool
site_would_not_notice(loader_state *state)
{
    PyObject *finders = system_object(state, state->strings.meta_path);
    PyObject *modules = system_object(state, state->strings.modules);
    if (finders == NULL || !PyList_Check(finders) || PyList_GET_SIZE(finders) == 0 || modules == NULL
        || PyList_GET_ITEM(finders, PyList_GET_SIZE(finders) - 1) != state->path_finder) {
        return false;
    }
    PyObject *site = PyMapping_GetItemString(modules, "site");
    PyObject *spec = site == NULL ? NULL : PyObject_GetAttrString(site, "__spec__");
    PyObject *initializing = spec == NULL ? NULL : PyObject_GetAttrString(spec, "_initializing");
    bool result = initializing == Py_True;
    Py_XDECREF(site);
    Py_XDECREF(spec);
    Py_XDECREF(initializing);
    PyErr_Clear();
    return result;
}

/* What _find_and_load_unlocked raises for a module that nobody has. Returns NULL. */
static PyObject *
raise_not_found(PyObject *full_name)
{
    PyObject *message = PyUnicode_FromFormat("No module named %R", full_name);
    if (message != NULL) {
        PyErr_SetImportErrorSubclass(PyExc_ModuleNotFoundError, message, full_name, NULL);
        Py_DECREF(message);
    }
    return NULL;
}

/* Is a search sure to find nothing by a listing? Then PathFinder, which looks again after us, can have it at once: a
   negative answer needs no proof, where it isn't ours. A directory is taken to lack a name only if its listing was
   proved before in this process: else a module that is new in it would never be recorded. */
static bool
is_listed_nowhere(loader_state *state, const struct search *search, PyObject *cache, PyObject *paths)
{
    if (!PyList_CheckExact(paths) || !session_serves(state->session)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(paths); i++) {
        PyObject *path = PyList_GET_ITEM(paths, i);
        if (!PyUnicode_CheckExact(path)) {
            return false;
        }
        PyObject *finder = NULL;
        if (PyUnicode_GET_LENGTH(path) > 0) {
            finder = PyDict_GetItemWithError(cache, path);
        }
        else if (state->current_directory > 0) {
            finder = state->entries[state->current_directory - 1].finder;
        }
        if (finder == Py_None) {
            continue;
        }
        PyObject *index = finder == NULL || (PyObject *)Py_TYPE(finder) != state->file_finder
                              ? NULL
                              : PyDict_GetItemWithError(state->entry_index, finder);
        if (index == NULL) {
            PyErr_Clear();
            return false;
        }
        const struct path_entry entry = state->entries[PyLong_AsSize_t(index)]; /* a copy: the array may move */
        if (entry.listing == NULL || !entry.proved
            || listing_find(entry.listing, search->tail, search->tail_bytes, search->hash) != NULL
            || !finder_is_unchanged(state, &entry)) {
            return false;
        }
    }
    return true;
}

/* Have all FileFinders of a path the methods of their class only? They would have been called. */
static bool
have_methods_of_class(loader_state *state, PyObject *cache, PyObject *path)
{
    PyObject *const names[] = {state->strings.fill_cache, state->strings.get_spec};
    bool all = PyList_CheckExact(path) || PyTuple_CheckExact(path);
    for (Py_ssize_t i = 0; all && i < PySequence_Fast_GET_SIZE(path); i++) {
        PyObject *entry = PySequence_Fast_GET_ITEM(path, i), *finder = NULL;
        if (!PyUnicode_CheckExact(entry)) {
            all = false;
        }
        else if (PyUnicode_GET_LENGTH(entry) > 0) {
            finder = PyDict_GetItemWithError(cache, entry);
        }
        else if (state->current_directory > 0) {
            finder = state->entries[state->current_directory - 1].finder;
        }
        for (size_t j = 0; all && finder != Py_None && j < sizeof(names) / sizeof(names[0]); j++) {
            PyObject *method = finder == NULL ? NULL : PyObject_GetAttr(finder, names[j]);
            all = method != NULL && PyMethod_Check(method)
                  && PyMethod_GET_FUNCTION(method) == _PyType_Lookup(Py_TYPE(finder), names[j]);
            Py_XDECREF(method);
        }
    }
    PyErr_Clear();
    return all;
}

/* The namespace package of all portions, as at the end of PathFinder.find_spec. */
static PyObject *
namespace_spec(loader_state *state, const struct search *search, PyObject *portions)
{
    PyObject *spec = PyObject_CallFunctionObjArgs(state->module_spec, search->full_name, Py_None, NULL);
    PyObject *path = spec == NULL ? NULL
                                  : PyObject_CallFunctionObjArgs(
                                      state->namespace_path, search->full_name, portions, state->plain_get_spec, NULL);
    if (path == NULL || PyObject_SetAttr(spec, state->strings.locations, path) != 0) {
        Py_CLEAR(spec);
    }
    Py_XDECREF(path);
    return spec;
}

/* Does PathFinder pass over an entry, since it isn't a str: not by its type, and not by saying so? */
static bool
is_no_string(loader_state *state, PyObject *entry)
{
    PyTypeObject *type = Py_TYPE(entry);
    return !PyUnicode_Check(entry) && type->tp_getattro == PyObject_GenericGetAttr
           && _PyType_Lookup(type, state->strings.dunder_class)
                  == _PyType_Lookup(&PyBaseObject_Type, state->strings.dunder_class);
}

static PyObject *
search_path(loader_state *state, struct search *search, PyObject *cache, PyObject *path)
{
    PyObject *portions = NULL, *spec = NULL;
    PyObject *entries = PyObject_GetIter(path);
    if (entries == NULL) {
        return NULL;
    }
    PyObject *entry;
    while ((entry = PyIter_Next(entries)) != NULL) {
        PyObject *result = NULL;
        enum answer answer = ANSWER_NOT_HERE;
        if (PyUnicode_CheckExact(entry)) {
            answer = search_entry(state, search, cache, entry, &result);
        }
        else if (!is_no_string(state, entry)) {
            answer = ANSWER_DECLINE; /* a subclass may compare as it likes */
        }
        Py_DECREF(entry);
        if (answer == ANSWER_DECLINE) {
            search->asked = true;
            Py_CLEAR(portions);
            break;
        }
        if (answer == ANSWER_ERROR) {
            goto failed;
        }
        if (answer == ANSWER_FOUND) {
            spec = result;
            break;
        }
        if (answer == ANSWER_PORTION) {
            if (portions == NULL && (portions = PyList_New(0)) == NULL) {
                Py_DECREF(result);
                goto failed;
            }
            PyObject *extended = PyObject_CallMethod(portions, "extend", "O", result);
            Py_DECREF(result);
            if (extended == NULL) {
                goto failed;
            }
            Py_DECREF(extended);
        }
    }
    if (PyErr_Occurred()) {
        goto failed;
    }
    Py_DECREF(entries);
    if (spec == NULL && portions != NULL && PyList_GET_SIZE(portions) > 0) {
        spec = namespace_spec(state, search, portions);
        if (spec == NULL) {
            Py_DECREF(portions);
            return NULL;
        }
    }
    Py_XDECREF(portions);
    return spec == NULL ? Py_NewRef(Py_None) : spec;
failed:
    Py_DECREF(entries);
    Py_XDECREF(portions);
    return NULL;
}

/* Leaves the answer to plain Python, for a reason that PYCDS_LOG tells. */
static PyObject *
bypass(loader_state *state, const char *reason)
{
    state->session->bypassed++;
    state->session->bypass_reason = reason;
    if (state->finders_are_behind) {
        bring_finders_up_to_date(state);
    }
    Py_RETURN_NONE;
}

/* As PathFinder.find_spec; None, too, where that is to answer. *absent, if asked for: it is proved that PathFinder
   would find nothing. */
static PyObject *
find(
    loader_state *state, PyObject *self, PyObject *full_name, PyObject *given_path, PyObject *target, bool directly,
    bool *absent)
{
    struct search search = {.full_name = full_name, .target = target, .directly = directly};
    if (state->session == NULL || !PyUnicode_CheckExact(search.full_name)) {
        Py_RETURN_NONE;
    }
    if (import_is_observed(state)) {
        patterns_step_aside(state);
        return bypass(state, "something looks on (an audit hook, a tracer, a profiler, tracemalloc)");
    }
    if (!prepare_search(state)) {
        Py_RETURN_NONE;
    }
    if (!stands_before_path_finder(state, self, full_name)) {
        return bypass(state, "another finder stands before PathFinder");
    }
    if (!importlib_is_untouched(state)) {
        return bypass(state, "importlib, or what it calls, was changed");
    }
    PyObject *cache = system_object(state, state->strings.path_importer_cache);
    Py_ssize_t bytes;
    const char *name = PyUnicode_AsUTF8AndSize(search.full_name, &bytes);
    if (name == NULL || cache == NULL || !PyDict_CheckExact(cache)) {
        PyErr_Clear(); /* lone surrogates */
        Py_RETURN_NONE;
    }
    const char *dot = strrchr(name, '.');
    search.tail = dot == NULL ? name : dot + 1;
    search.tail_bytes = strlen(search.tail);
    if (strlen(name) != (size_t)bytes || search.tail_bytes == 0 || search.tail_bytes > 255) {
        Py_RETURN_NONE;
    }
    search.hash = (uint32_t)pycds_checksum(search.tail, search.tail_bytes);
    patterns_install(state);
    PyObject *path = given_path == Py_None ? system_object(state, state->strings.path) : given_path;
    if (path == NULL
        || (!PyList_CheckExact(path) && !PyTuple_CheckExact(path)
            && (PyObject *)Py_TYPE(path) != state->namespace_path)) {
        Py_RETURN_NONE; /* something that may not bear being gone through twice */
    }
    bool for_site = given_path == Py_None && is_customization(name) && site_would_not_notice(state);
    if (!for_site && is_listed_nowhere(state, &search, cache, path)) {
        if (absent == NULL) {
            Py_RETURN_NONE;
        }
        search.only_prove = true;
    }
    Py_INCREF(path);
    Py_INCREF(cache);
    PyObject *spec = search_path(state, &search, cache, path);
    if (absent != NULL) {
        *absent = spec == Py_None && !search.asked && !state->session->settings.trust
                  && have_methods_of_class(state, cache, path);
    }
    Py_DECREF(cache);
    Py_DECREF(path);
    if (spec == Py_None && for_site && !search.asked) {
        Py_DECREF(spec);
        return raise_not_found(search.full_name);
    }
    return spec;
}

PyDoc_STRVAR(
    find_spec_doc,
    "find_spec($self, fullname, path=None, target=None, /)\n--\n\n"
    "The spec that importlib.machinery.PathFinder.find_spec would return, or None to leave the answer to it.");

static PyObject *
finder_find_spec(
    PyObject *self, PyTypeObject *type, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    static const char *const names[] = {"fullname", "path", "target"};
    PyObject *values[3] = {NULL, Py_None, Py_None};
    if (count > 3) {
        PyErr_SetString(PyExc_TypeError, "find_spec() takes at most 3 arguments");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        values[i] = arguments[i];
    }
    for (Py_ssize_t i = 0; keywords != NULL && i < PyTuple_GET_SIZE(keywords); i++) {
        int slot = 0;
        while (slot < 3 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(keywords, i), names[slot]) != 0) {
            slot++;
        }
        if (slot == 3 || slot < count) {
            PyErr_Format(
                PyExc_TypeError, "find_spec() got an unexpected or repeated argument %R",
                PyTuple_GET_ITEM(keywords, i));
            return NULL;
        }
        values[slot] = arguments[count + i];
    }
    if (values[0] == NULL) {
        PyErr_SetString(PyExc_TypeError, "find_spec() needs a module name");
        return NULL;
    }
    loader_state *state = PyType_GetModuleState(type);
    return state == NULL ? Py_NewRef(Py_None) : find(state, self, values[0], values[1], values[2], false, NULL);
}

PyObject *
finder_find(
    loader_state *state, PyObject *finder, PyObject *name, PyObject *path, bool directly, bool *absent)
{
    return find(state, finder, name, path, Py_None, directly, absent);
}

PyDoc_STRVAR(
    invalidate_caches_doc,
    "invalidate_caches($self, /)\n--\n\n"
    "Does nothing: listings are proved at each use, and finders on path entries hear of it from PathFinder.");

static PyObject *
finder_invalidate_caches(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    Py_RETURN_NONE;
}

static void
finder_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    loader_state *state = Py_IsInitialized() ? NULL : PyType_GetModuleState(type);
    if (state != NULL) {
        finalization_shorten(state);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef finder_methods[] = {
    {"find_spec", (PyCFunction)(void (*)(void))finder_find_spec, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     find_spec_doc},
    {"invalidate_caches", finder_invalidate_caches, METH_NOARGS, invalidate_caches_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(
    finder_doc, "The meta path finder of pycds-auto: a memoised importlib.machinery.PathFinder, directly before it.");

static PyType_Slot finder_slots[] = {
    {Py_tp_doc, (void *)finder_doc},
    {Py_tp_methods, finder_methods},
    {Py_tp_dealloc, finder_dealloc},
    {0, NULL},
};

static PyType_Spec finder_spec = {
    .name = "pycds_auto._loader.Finder",
    .basicsize = sizeof(finder_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = finder_slots,
};

PyObject *
make_finder_type(PyObject *module)
{
    return PyType_FromModuleAndSpec(module, &finder_spec, NULL);
}

void
finder_clear(loader_state *state)
{
    for (size_t i = 0; i < state->entry_count; i++) {
        Py_CLEAR(state->entries[i].finder);
        Py_CLEAR(state->entries[i].finder_path);
        Py_CLEAR(state->entries[i].loaders);
        Py_CLEAR(state->entries[i].loader_items);
        PyMem_Free(state->entries[i].path);
        state->entries[i].path = NULL;
    }
    state->entry_count = state->current_directory = 0;
    Py_CLEAR(state->found.loader);
    Py_CLEAR(state->entry_index);
    PyMem_Free(state->entries);
    state->entries = NULL;
    state->entry_capacity = 0;
}

int
finder_traverse(loader_state *state, visitproc visit, void *arg)
{
    for (size_t i = 0; i < state->entry_count; i++) {
        Py_VISIT(state->entries[i].finder);
        Py_VISIT(state->entries[i].finder_path);
        Py_VISIT(state->entries[i].loaders);
        Py_VISIT(state->entries[i].loader_items);
    }
    Py_VISIT(state->found.loader);
    Py_VISIT(state->entry_index);
    return 0;
}
