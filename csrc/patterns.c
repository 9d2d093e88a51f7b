#include "patterns.h"

#include <marshal.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "results.h"
#include "stand_in.h"

/* re/_constants.py, SRE_FLAG_TEMPLATE (up to 3.12), SRE_FLAG_LOCALE, SRE_FLAG_DEBUG */
#define FLAGS_LEFT_ALONE (1 | 4 | 128)

#define MOST_KEY_BYTES (64 * 1024)

static const char *const package[PATTERN_MODULES] = {
    "re", "re._compiler", "re._parser", "re._constants", "re._casefix"};

/* ---- has somebody changed how patterns are compiled? ---- */

/* The pairs of a dictionary, keys and values in turn, as they were. */
static PyObject *
pairs_of(PyObject *dictionary)
{
    PyObject *pairs = PyList_New(0), *key, *value, *tuple;
    for (Py_ssize_t at = 0; pairs != NULL && PyDict_Next(dictionary, &at, &key, &value);) {
        if (PyList_Append(pairs, key) < 0 || PyList_Append(pairs, value) < 0) {
            Py_CLEAR(pairs);
        }
    }
    tuple = pairs == NULL ? NULL : PyList_AsTuple(pairs);
    Py_XDECREF(pairs);
    return tuple;
}

static bool
has_pairs(PyObject *dictionary, PyObject *pairs)
{
    PyObject *key, *value;
    Py_ssize_t next = 0, count = PyTuple_GET_SIZE(pairs);
    for (Py_ssize_t at = 0; PyDict_Next(dictionary, &at, &key, &value); next += 2) {
        if (next >= count || PyTuple_GET_ITEM(pairs, next) != key || PyTuple_GET_ITEM(pairs, next + 1) != value) {
            return false;
        }
    }
    return next == count;
}

/* Watches a module's namespace, and the dictionaries and classes in it (re._parser.CATEGORIES, State and the like). */
static bool
watch(loader_state *state, PyObject *dictionary, bool deep)
{
    struct patterns *all = &state->patterns;
    if (all->watched_count == PATTERN_DICTIONARIES) {
        return false;
    }
    PyObject *pairs = pairs_of(dictionary);
    if (pairs == NULL) {
        return false;
    }
    all->watched[all->watched_count] = Py_NewRef(dictionary);
    all->pairs[all->watched_count++] = pairs;
    for (Py_ssize_t i = 0; deep && i < PyTuple_GET_SIZE(pairs); i += 2) {
        PyObject *name = PyTuple_GET_ITEM(pairs, i), *value = PyTuple_GET_ITEM(pairs, i + 1);
        bool special = PyUnicode_Check(name) && PyUnicode_GET_LENGTH(name) > 2 && PyUnicode_READ_CHAR(name, 0) == '_'
                       && PyUnicode_READ_CHAR(name, 1) == '_'; /* __builtins__ */
        PyObject *inner = special                                                       ? NULL
                          : PyDict_CheckExact(value)                                    ? value
                          : PyType_Check(value) && PyType_HasFeature((PyTypeObject *)value, Py_TPFLAGS_HEAPTYPE)
                              ? ((PyTypeObject *)value)->tp_dict
                              : NULL;
        if (inner != NULL && !watch(state, inner, false)) {
            return false;
        }
    }
    return true;
}

static bool
is_untouched(const loader_state *state)
{
    for (int i = 0; i < state->patterns.watched_count; i++) {
        if (!has_pairs(state->patterns.watched[i], state->patterns.pairs[i])) {
            return false;
        }
    }
    return true;
}

/* ---- keys and entries ---- */

/* Does the parser do more than to compute? For \N{...} it imports unicodedata, and in development mode and debug builds
   it looks for the codec by which it makes texts of bytes (re/_parser.py, _class_escape and Tokenizer.__init__, 3.11 to
   3.15). */
static bool
has_side_effects(const loader_state *state, bool text, const char *bytes, size_t size)
{
    return text ? memmem(bytes, size, "\\N", 2) != NULL : state->patterns.looks_for_codecs;
}

/* The key of a pattern, "s2:text" or "b0:bytes". False: no memory, with an exception. */
static bool
make_key(const loader_state *state, PyObject *pattern, PyObject *flags, struct result_key *key)
{
    memset(key, 0, sizeof(*key));
    int overflow;
    long number = PyLong_AsLongAndOverflow(flags, &overflow);
    bool text = PyUnicode_CheckExact(pattern);
    if (overflow || number < 0 || number & FLAGS_LEFT_ALONE) {
        return true;
    }
    PyObject *encoded = NULL;
    const char *bytes = NULL;
    size_t size = 0;
    if (!text) {
        bytes = PyBytes_AS_STRING(pattern);
        size = (size_t)PyBytes_GET_SIZE(pattern);
    }
    else if (!result_text(pattern, &encoded, &bytes, &size)) {
        return !PyErr_Occurred();
    }
    bool takes_part = size <= MOST_KEY_BYTES && !has_side_effects(state, text, bytes, size);
    if (takes_part) {
        key->bytes = malloc(size + 32);
        if (key->bytes == NULL) {
            PyErr_NoMemory();
        }
        else {
            int head = snprintf(key->bytes, 32, "%c%ld:", text ? 's' : 'b', number);
            memcpy(key->bytes + head, bytes, size);
            key->size = (size_t)head + size;
            key->takes_part = true;
        }
    }
    Py_XDECREF(encoded);
    return !takes_part || key->bytes != NULL;
}

/* The arguments of _sre.compile behind the pattern, out of an entry: marshal of (flags, code words as bytes, groups,
   (name, group, name, group, ...)); patterns.py writes it. Owned; NULL with an exception. */
struct compiled {
    PyObject *flags, *code, *groups, *group_index, *index_group;
};

static void
compiled_clear(struct compiled *compiled)
{
    Py_CLEAR(compiled->flags);
    Py_CLEAR(compiled->code);
    Py_CLEAR(compiled->groups);
    Py_CLEAR(compiled->group_index);
    Py_CLEAR(compiled->index_group);
}

static PyObject *
list_of_words(PyObject *bytes)
{
    Py_ssize_t count = PyBytes_GET_SIZE(bytes) / (Py_ssize_t)sizeof(uint32_t);
    PyObject *list = PyList_New(count);
    for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
        uint32_t word;
        memcpy(&word, PyBytes_AS_STRING(bytes) + (size_t)i * sizeof(word), sizeof(word));
        PyObject *number = PyLong_FromUnsignedLong(word);
        if (number == NULL) {
            Py_CLEAR(list);
        }
        else {
            PyList_SET_ITEM(list, i, number);
        }
    }
    return list;
}

/* Fills group_index and index_group as re._compiler.compile does. */
static bool
fill_groups(struct compiled *compiled, PyObject *names, Py_ssize_t groups)
{
    compiled->group_index = PyDict_New();
    compiled->index_group = PyTuple_New(groups + 1);
    if (compiled->group_index == NULL || compiled->index_group == NULL) {
        return false;
    }
    for (Py_ssize_t i = 0; i <= groups; i++) {
        PyTuple_SET_ITEM(compiled->index_group, i, Py_NewRef(Py_None));
    }
    for (Py_ssize_t i = 0; i + 1 < PyTuple_GET_SIZE(names); i += 2) {
        PyObject *name = PyTuple_GET_ITEM(names, i), *group = PyTuple_GET_ITEM(names, i + 1);
        Py_ssize_t index = PyLong_CheckExact(group) ? PyLong_AsSsize_t(group) : -1;
        if (!PyUnicode_CheckExact(name) || index < 1 || index > groups
            || PyDict_SetItem(compiled->group_index, name, group) < 0) {
            return false;
        }
        PyObject *none = PyTuple_GET_ITEM(compiled->index_group, index);
        PyTuple_SET_ITEM(compiled->index_group, index, Py_NewRef(name));
        Py_DECREF(none);
    }
    return true;
}

static bool
read_entry(const unsigned char *payload, size_t size, struct compiled *compiled)
{
    memset(compiled, 0, sizeof(*compiled));
    PyObject *entry = PyMarshal_ReadObjectFromString((const char *)payload, (Py_ssize_t)size);
    bool complete = false;
    if (entry != NULL && PyTuple_CheckExact(entry) && PyTuple_GET_SIZE(entry) == 4) {
        PyObject *flags = PyTuple_GET_ITEM(entry, 0), *words = PyTuple_GET_ITEM(entry, 1);
        PyObject *groups = PyTuple_GET_ITEM(entry, 2), *names = PyTuple_GET_ITEM(entry, 3);
        Py_ssize_t count = PyLong_CheckExact(groups) ? PyLong_AsSsize_t(groups) : -1;
        if (PyLong_CheckExact(flags) && PyBytes_CheckExact(words) && PyTuple_CheckExact(names) && count >= 0
            && count < 1 << 20) {
            compiled->flags = Py_NewRef(flags);
            compiled->groups = Py_NewRef(groups);
            compiled->code = list_of_words(words);
            complete = compiled->code != NULL && fill_groups(compiled, names, count);
        }
    }
    Py_XDECREF(entry);
    if (!complete) {
        compiled_clear(compiled);
    }
    return complete;
}

/* The pattern object out of an entry of the image. NULL without an exception: it is of no use. */
static PyObject *
from_entry(loader_state *state, const struct module_record *record, PyObject *pattern)
{
    size_t size;
    struct compiled compiled;
    const unsigned char *payload = image_payload(&state->session->image, record, &size);
    PyObject *result = NULL;
    if (payload != NULL && read_entry(payload, size, &compiled)) {
        result = PyObject_CallFunctionObjArgs(
            state->patterns.sre_compile, pattern, compiled.flags, compiled.code, compiled.groups, compiled.group_index,
            compiled.index_group, NULL);
        compiled_clear(&compiled);
    }
    if (result == NULL) { /* damaged, or no memory: the plain function finds out */
        PyErr_Clear();
    }
    return result;
}

/* ---- the function ---- */

static PyObject *
call_plain(loader_state *state, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    PyObject *plain = state->patterns.plain_compile;
    if (plain == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "pycds_auto._loader was cleared");
        return NULL;
    }
    Py_INCREF(plain);
    leave_call();
    PyObject *result = PyObject_Vectorcall(plain, arguments, (size_t)count, keywords);
    if (!enter_call()) {
        Py_CLEAR(result);
    }
    Py_DECREF(plain);
    return result;
}

/* The image's record of a pattern; NULL: none, or no image. */
static const struct module_record *
record_of(loader_state *state, const struct result_key *key)
{
    return state->patterns.serves && session_serves(state->session)
               ? image_module(&state->session->image, key->bytes, key->size)
               : NULL;
}

static PyObject *
pattern_compile(loader_state *state, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    if (state->patterns.plain_compile != NULL && state->session != NULL && import_is_observed(state)) {
        patterns_step_aside(state);
        return call_plain(state, arguments, count, keywords);
    }
    if (count != 2 || keywords != NULL || !(PyUnicode_CheckExact(arguments[0]) || PyBytes_CheckExact(arguments[0]))
        || !PyLong_CheckExact(arguments[1]) || state->session == NULL || !is_untouched(state)
        || !builtins_are_untouched(state)) {
        return call_plain(state, arguments, count, keywords);
    }
    struct result_key key;
    if (!make_key(state, arguments[0], arguments[1], &key)) {
        return NULL;
    }
    const struct module_record *record = key.takes_part ? record_of(state, &key) : NULL;
    PyObject *result = NULL;
    if (record != NULL && !(record->flags & MODULE_LEFT_OUT)) {
        result = from_entry(state, record, arguments[0]);
        state->session->pattern_hits += result != NULL;
    }
    if (result == NULL) {
        result = call_plain(state, arguments, count, keywords);
    }
    if (result != NULL && key.takes_part && record == NULL) {
        results_note_miss(state->session, &state->patterns.notes, MISS_PATTERN, MODULE_PATTERN, &key);
    }
    else if (result != NULL && record != NULL && record->flags & MODULE_AGED) {
        results_note_aged(state->session, &state->patterns.notes, MISS_PATTERN, &key);
    }
    free(key.bytes);
    return result;
}

static const struct stand_in_definition compile_definition = {
    "re._compiler", "compile", "(p, flags=0)", pattern_compile};

/* ---- putting it in place ---- */

/* The dictionary of a module of the package, borrowed. *ours: it came from the image; NULL: it isn't there, is still
   being imported (`re` itself may be: the others do the work), or isn't one that a source file made. */
static PyObject *
complete_module(loader_state *state, const char *name, bool *ours)
{
    PyObject *modules = PySys_GetObject("modules");
    PyObject *module = modules == NULL ? NULL : PyDict_GetItemString(modules, name);
    if (module == NULL || !PyModule_CheckExact(module)) {
        return NULL;
    }
    PyObject *spec = PyDict_GetItemString(PyModule_GetDict(module), "__spec__");
    PyObject *initializing = spec == NULL ? NULL : PyObject_GetAttrString(spec, "_initializing");
    PyObject *loader = spec == NULL ? NULL : PyObject_GetAttrString(spec, "loader");
    PyErr_Clear();
    PyObject *type = loader == NULL ? NULL : (PyObject *)Py_TYPE(loader);
    *ours = type != NULL && type == state->loader_type;
    bool complete = (initializing != Py_True || strcmp(name, package[0]) == 0)
                    && (*ours || (type != NULL && type == state->source_file_loader));
    Py_XDECREF(initializing);
    Py_XDECREF(loader);
    return complete ? PyModule_GetDict(module) : NULL;
}

/* Is it a function of a file called so? */
static bool
is_function_of(PyObject *function, PyObject *file)
{
    return function != NULL && PyFunction_Check(function) && file != NULL && PyUnicode_Check(file)
           && PyUnicode_Compare(((PyCodeObject *)PyFunction_GET_CODE(function))->co_filename, file) == 0;
}

static bool
put_in_place(loader_state *state)
{
    return PyDict_SetItemString(state->patterns.compiler, "compile", state->patterns.function) == 0;
}

/* Is it a module of the standard library? A copy of the package elsewhere may be another one. */
static bool
in_standard_library(const loader_state *state, PyObject *dictionary)
{
    PyObject *file = PyDict_GetItemString(dictionary, "__file__");
    const char *path =
        file != NULL && PyUnicode_Check(file) && PyUnicode_IS_ASCII(file) ? PyUnicode_AsUTF8(file) : NULL;
    const char *library = state->session->stdlib;
    size_t length = library == NULL ? 0 : strlen(library);
    return path != NULL && length != 0 && strncmp(path, library, length) == 0 && strncmp(path + length, "/re/", 4) == 0;
}

static bool
take_package(loader_state *state)
{
    struct patterns *all = &state->patterns;
    PyObject *dictionaries[PATTERN_MODULES];
    all->serves = true;
    for (int i = 0; i < PATTERN_MODULES; i++) {
        bool ours = false;
        dictionaries[i] = complete_module(state, package[i], &ours);
        if (dictionaries[i] == NULL) {
            return false;
        }
        all->serves = all->serves && ours && in_standard_library(state, dictionaries[i]);
    }
    all->compiler = Py_NewRef(dictionaries[1]);
    all->function = stand_in_new(state, &compile_definition);
    PyObject *compile = PyDict_GetItemString(all->compiler, "compile");
    PyObject *parse = PyDict_GetItemString(dictionaries[2], "parse");
    PyObject *sre = PyDict_GetItemString(all->compiler, "_sre");
    if (all->function == NULL || sre == NULL
        || !is_function_of(compile, PyDict_GetItemString(all->compiler, "__file__"))
        || !is_function_of(parse, PyDict_GetItemString(dictionaries[2], "__file__"))
        || PyDict_GetItemString(all->compiler, "_parser")
               != PyDict_GetItemString(PySys_GetObject("modules"), package[2])) {
        return false;
    }
    all->plain_compile = Py_NewRef(compile);
    all->sre_compile = PyObject_GetAttrString(sre, "compile");
#ifdef Py_DEBUG
    all->looks_for_codecs = true; /* Objects/unicodeobject.c, unicode_check_encoding_errors */
#else
    all->looks_for_codecs = system_flag("dev_mode") != 0;
#endif
    /* ours first: what is watched is how things are with it in place */
    return all->sre_compile != NULL && PyCFunction_CheckExact(all->sre_compile) && PyModule_CheckExact(sre)
           && PyCFunction_GET_SELF(all->sre_compile) == sre && put_in_place(state)
           && watch(state, dictionaries[1], true) && watch(state, dictionaries[2], true)
           && watch(state, PyModule_GetDict(sre), false);
}

void
patterns_prepare(loader_state *state)
{
    PyObject *modules = PySys_GetObject("modules");
    state->patterns.tried =
        modules != NULL && PyDict_CheckExact(modules) && PyDict_GetItemString(modules, package[0]) != NULL;
}

void
patterns_install(loader_state *state)
{
    struct patterns *all = &state->patterns;
    if (all->aside) {
        all->aside = false;
        PyObject *now = PyDict_GetItemString(all->compiler, "compile");
        if (now == all->plain_compile) { /* else a program put its own there meanwhile */
            (void)put_in_place(state);
        }
        PyErr_Clear();
        return;
    }
    if (all->tried) {
        return;
    }
    PyObject *modules = PySys_GetObject("modules");
    if (modules == NULL || !PyDict_CheckExact(modules) || state->strings.re == NULL /* quick, while it isn't there */
        || PyDict_GetItemWithError(modules, state->strings.re) == NULL) {
        PyErr_Clear();
        return;
    }
    bool ours;
    if (complete_module(state, package[1], &ours) == NULL) {
        return; /* not yet */
    }
    all->tried = true;
    bool useful = session_serves(state->session) || state->session->recording;
    if (useful && !(state->session->settings.skipped & ACCELERATION_RE) && !take_package(state)) {
        patterns_clear(state);
    }
    PyErr_Clear();
}

static void
put_back(loader_state *state)
{
    PyObject *now = state->patterns.compiler == NULL ? NULL : PyDict_GetItemString(state->patterns.compiler, "compile");
    if (now != NULL && now == state->patterns.function && state->patterns.plain_compile != NULL
        && PyDict_SetItemString(state->patterns.compiler, "compile", state->patterns.plain_compile) != 0) {
        PyErr_Clear();
    }
}

void
patterns_step_aside(loader_state *state)
{
    if (state->patterns.plain_compile != NULL && !state->patterns.aside) {
        put_back(state);
        state->patterns.aside = true;
    }
}

#define FOR_EACH_PATTERN_OBJECT(state, DO)                                                                             \
    DO((state)->patterns.compiler);                                                                                    \
    DO((state)->patterns.function);                                                                                    \
    DO((state)->patterns.plain_compile);                                                                               \
    DO((state)->patterns.sre_compile);

void
patterns_clear(loader_state *state)
{
    put_back(state);
    state->patterns.aside = false;
    results_clear(&state->patterns.notes);
    FOR_EACH_PATTERN_OBJECT(state, Py_CLEAR)
    for (int i = 0; i < PATTERN_DICTIONARIES; i++) {
        Py_CLEAR(state->patterns.watched[i]);
        Py_CLEAR(state->patterns.pairs[i]);
    }
    state->patterns.watched_count = 0;
}

int
patterns_traverse(loader_state *state, visitproc visit, void *arg)
{
    FOR_EACH_PATTERN_OBJECT(state, Py_VISIT)
    for (int i = 0; i < PATTERN_DICTIONARIES; i++) {
        Py_VISIT(state->patterns.watched[i]);
        Py_VISIT(state->patterns.pairs[i]);
    }
    return 0;
}
