#include "sources.h"

#include "native_layout.h"

#include <marshal.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_TEXT_BYTES (64 * 1024)

/* So much is missed in a row before no more is looked up until another module is. A module may well ask for the same
   things again and again while they are being recorded. */
#define MOST_MISSED 1024
#define WEIGHT_OF_MISS 16
#define MOST_ARGUMENTS 8

/* ---- the functions behind exec, eval and compile ---- */

enum hooked { HOOKED_EXEC, HOOKED_EVAL, HOOKED_COMPILE, HOOKED };

static const char *const hooked_names[HOOKED] = {"exec", "eval", "compile"};

typedef PyObject *(*function_with_keywords)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
typedef PyObject *(*function_without_keywords)(PyObject *, PyObject *const *, Py_ssize_t);

/* Of the process: the function objects of the main interpreter use them to the end, and so do those of its successor.
   */
static PyMethodDef *originals[HOOKED];
static PyMethodDef replacements[HOOKED];

/* The state of the main interpreter's module; NULL: only pass calls on. */
static loader_state *main_state;

static PyObject *
call_original(
    enum hooked which, PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    const PyMethodDef *original = originals[which];
    if (original->ml_flags & METH_KEYWORDS) {
        return ((function_with_keywords)(void (*)(void))original->ml_meth)(self, arguments, count, keywords);
    }
    return ((function_without_keywords)(void (*)(void))original->ml_meth)(self, arguments, count);
}

/* ---- keys and entries ---- */

/* What is to be compiled. All borrowed. */
struct request {
    PyObject *text; /* an exact str */
    PyObject *file; /* an exact str; NULL: what exec and eval put there */
    char mode; /* 'm': a module's, 'e': an expression */
    int flags; /* PyCF_MASK, the caller's included */
    int optimise; /* -1: as the interpreter does */
};

/* The text in utf-8 as the compiler would have it: by PyUnicode_AsUTF8AndSize, which leaves it in the string
   (Python/pythonrun.c, _Py_SourceAsString), and for eval without what precedes it (Python/bltinmodule.c,
   builtin_eval_impl). NULL: not for us. */
static const char *
text_of(const struct request *request, size_t *size)
{
    if (PyUnicode_GET_LENGTH(request->text) > MOST_TEXT_BYTES) {
        return NULL;
    }
    Py_ssize_t bytes;
    const char *text = PyUnicode_AsUTF8AndSize(request->text, &bytes);
    if (text == NULL) {
        PyErr_Clear(); /* lone surrogates; the original says so */
        return NULL;
    }
    *size = (size_t)bytes;
    if (bytes > MOST_TEXT_BYTES || memchr(text, '\0', *size) != NULL) {
        return NULL;
    }
    while (request->mode == 'e' && request->file == NULL && (*text == ' ' || *text == '\t')) {
        text++;
        --*size;
    }
    return text;
}

/* The key of a text, "xm-0:file\0text": mode, optimisation, flags. False: it takes no part. Leaves no exception. */
static bool
make_key(const struct request *request, struct result_key *key)
{
    PyObject *keep = NULL;
    const char *file = "<string>";
    size_t size, file_size = strlen(file);
    const char *text = text_of(request, &size);
    key->bytes = NULL;
    if (text != NULL && (request->file == NULL || result_text(request->file, &keep, &file, &file_size))
        && file_size <= MOST_TEXT_BYTES && memchr(file, '\0', file_size) == NULL
        && (key->bytes = malloc(size + file_size + 32)) != NULL) {
        size_t head = (size_t)snprintf(
            key->bytes, 32, "x%c%c%d:", request->mode, request->optimise < 0 ? '-' : '0' + request->optimise,
            request->flags);
        memcpy(key->bytes + head, file, file_size);
        key->bytes[head + file_size] = '\0';
        memcpy(key->bytes + head + file_size + 1, text, size);
        key->size = head + file_size + 1 + size;
    }
    PyErr_Clear();
    Py_XDECREF(keep);
    return key->bytes != NULL;
}

static void
put(PyObject **slot, PyObject *object)
{
    PyObject *before = *slot;
    *slot = Py_NewRef(object);
    Py_DECREF(before);
}

/* Puts the compiler's own name in the place of an equal one. */
static void
put_name(PyObject **slot, PyObject *names)
{
    if (PyUnicode_GET_LENGTH(*slot) == 0 || PyUnicode_READ_CHAR(*slot, 0) != '<') {
        return;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        if (PyUnicode_Compare(*slot, PyTuple_GET_ITEM(names, i)) == 0) {
            put(slot, PyTuple_GET_ITEM(names, i));
            return;
        }
    }
}

/* Gives code that marshal has just made, and the code in it, the objects that the compiler would have put there. */
static void
settle(PyCodeObject *code, PyObject *file, PyObject *names)
{
    native_layout_own_kinds((PyObject *)code);
    put(&code->co_filename, file);
    put_name(&code->co_name, names);
    put_name(&code->co_qualname, names);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(code->co_consts); i++) {
        PyObject *constant = PyTuple_GET_ITEM(code->co_consts, i);
        if (PyCode_Check(constant)) {
            settle((PyCodeObject *)constant, file, names);
        }
    }
}

/* ---- constant sets ----

   In which order a constant set has its elements depends on their hashes, on the order in the source, and on how often
   the compiler makes it anew: the folded set (Python/ast_opt.c, fold_compare, up to 3.13), its copy among the constants
   (Python/compile.c, merge_consts_recursive), and one with its strings interned (Objects/codeobject.c,
   intern_string_constants), if for one of them another object was interned before. An entry has the elements in the
   source's order, and says how often: sources.py sees to it that they are names, and that nothing else decides, given
   that strings equal to them are interned. */

/* A set of these names, as it is when the compiler has made it that often. */
static PyObject *
compilers_set(PyObject *names, Py_ssize_t copies)
{
    PyObject *elements = PyTuple_CheckExact(names) ? PyTuple_New(PyTuple_GET_SIZE(names)) : NULL;
    for (Py_ssize_t i = 0; elements != NULL && i < PyTuple_GET_SIZE(elements); i++) {
        PyObject *known = native_layout_known_string(PyTuple_GET_ITEM(names, i));
        if (known == NULL) {
            Py_CLEAR(elements);
            return NULL;
        }
        PyTuple_SET_ITEM(elements, i, known);
    }
    PyObject *set = NULL;
    for (Py_ssize_t i = 0; i < copies && elements != NULL; i++) {
        Py_XSETREF(set, PyFrozenSet_New(elements));
        Py_SETREF(elements, set == NULL ? NULL : PySequence_Tuple(set));
    }
    Py_XDECREF(elements);
    return elements == NULL ? NULL : set;
}

/* Puts a set in its place among the constants of code, or of code in it. `path` is a tuple of indices. */
static bool
put_set(PyObject *code, PyObject *path, PyObject *set)
{
    for (Py_ssize_t i = 0; PyTuple_CheckExact(path) && i < PyTuple_GET_SIZE(path); i++) {
        PyObject *constants = PyCode_Check(code) ? ((PyCodeObject *)code)->co_consts : NULL;
        Py_ssize_t index = PyLong_AsSsize_t(PyTuple_GET_ITEM(path, i));
        if (constants == NULL || index < 0 || index >= PyTuple_GET_SIZE(constants)) {
            return false;
        }
        if (i == PyTuple_GET_SIZE(path) - 1) {
            put(&PyTuple_GET_ITEM(constants, index), set);
            return true;
        }
        code = PyTuple_GET_ITEM(constants, index);
    }
    return false;
}

/* An earlier place's set that is the same object as this one's, which is so until strings are interned. Borrowed, or
   NULL. */
static PyObject *
same_set(PyObject *places, PyObject *sets, Py_ssize_t index)
{
    PyObject *place = PyTuple_GET_ITEM(places, index);
    for (Py_ssize_t i = 0; i < index; i++) {
        if (PyTuple_GET_ITEM(PyTuple_GET_ITEM(places, i), 1) == PyTuple_GET_ITEM(place, 1)) {
            return PyTuple_GET_ITEM(sets, i);
        }
    }
    return NULL;
}

/* The set for a place, (path, names, copies). New reference, or NULL. */
static PyObject *
set_for(PyObject *places, PyObject *sets, Py_ssize_t index)
{
    PyObject *place = PyTuple_GET_ITEM(places, index);
    if (!PyTuple_CheckExact(place) || PyTuple_GET_SIZE(place) != 3) {
        return NULL;
    }
    Py_ssize_t copies = PyLong_AsSsize_t(PyTuple_GET_ITEM(place, 2));
    if (copies < 1 || copies > NATIVE_SET_COPIES) {
        return NULL;
    }
    PyObject *set = copies < NATIVE_SET_COPIES ? same_set(places, sets, index) : NULL;
    return set != NULL ? Py_NewRef(set) : compilers_set(PyTuple_GET_ITEM(place, 1), copies);
}

/* Code with constant sets: the byte, uint32_t size of marshal's tuple of (path, names, copies) for each set, that
   tuple, and the code as marshal has it. The names are looked for before the code is made, which interns its own. */
#define WITH_SETS '\x01'

static PyObject *
code_with_sets(const char *payload, size_t size)
{
    uint32_t bytes;
    size_t head = 1 + sizeof(bytes);
    if (size < head) {
        return NULL;
    }
    memcpy(&bytes, payload + 1, sizeof(bytes));
    PyObject *places = bytes > size - head ? NULL : PyMarshal_ReadObjectFromString(payload + head, bytes);
    Py_ssize_t count = places != NULL && PyTuple_CheckExact(places) ? PyTuple_GET_SIZE(places) : -1;
    PyObject *sets = count < 0 ? NULL : PyTuple_New(count), *code = NULL;
    for (Py_ssize_t i = 0; sets != NULL && i < count; i++) {
        PyObject *set = set_for(places, sets, i);
        if (set == NULL) {
            Py_CLEAR(sets);
            break;
        }
        PyTuple_SET_ITEM(sets, i, set);
    }
    if (sets != NULL) {
        code = PyMarshal_ReadObjectFromString(payload + head + bytes, (Py_ssize_t)(size - head - bytes));
    }
    for (Py_ssize_t i = 0; code != NULL && i < count; i++) {
        if (!put_set(code, PyTuple_GET_ITEM(PyTuple_GET_ITEM(places, i), 0), PyTuple_GET_ITEM(sets, i))) {
            Py_CLEAR(code);
        }
    }
    Py_XDECREF(sets);
    Py_XDECREF(places);
    return code;
}

PyObject *
sources_code_in(const char *payload, size_t size)
{
    return size > 0 && *payload == WITH_SETS ? code_with_sets(payload, size)
                                             : PyMarshal_ReadObjectFromString(payload, (Py_ssize_t)size);
}

/* The code object out of an entry. NULL without an exception: it is of no use. */
static PyObject *
from_entry(loader_state *state, const struct module_record *record, const struct request *request)
{
    size_t size;
    const unsigned char *payload = image_payload(&state->session->image, record, &size);
    PyObject *file = Py_NewRef(request->file == NULL ? state->sources.file : request->file);
    native_layout_intern_file_name(&file); /* before marshal makes an equal one */
    PyObject *code = payload == NULL ? NULL : sources_code_in((const char *)payload, size);
    if (code != NULL && PyCode_Check(code)) {
        settle((PyCodeObject *)code, file, state->sources.names);
    }
    else {
        PyErr_Clear(); /* damaged, or no memory: the original finds out */
        Py_CLEAR(code);
    }
    Py_DECREF(file);
    return code;
}

/* ---- when ---- */

/* The names of code objects in code. */
static bool
collect_names(PyCodeObject *code, PyObject *names)
{
    bool done = PyList_Append(names, code->co_name) == 0;
    for (Py_ssize_t i = 0; done && i < PyTuple_GET_SIZE(code->co_consts); i++) {
        PyObject *constant = PyTuple_GET_ITEM(code->co_consts, i);
        done = !PyCode_Check(constant) || collect_names((PyCodeObject *)constant, names);
    }
    return done;
}

/* Gets hold of objects of the compiler that code objects share, by looking at some code. Up to 3.12 they aren't
   interned. Neither eval nor Py_CompileStringObject has the side effect that compile() has (see compile_function). */
static bool
take_names(loader_state *state, PyObject *self)
{
    struct sources *all = &state->sources;
    PyObject *globals = PyDict_New();
    PyObject *text = PyUnicode_FromString("(lambda: 0).__code__.co_filename");
    if (globals != NULL && text != NULL) {
        PyObject *arguments[] = {text, globals};
        all->file = call_original(HOOKED_EVAL, self, arguments, 2, NULL);
    }
    Py_XDECREF(text);
    Py_XDECREF(globals);
    static const char some[] = "lambda: ((x for x in ()), [x for x in ()], {x for x in ()}, {x: x for x in ()})";
    PyObject *code = all->file == NULL ? NULL : Py_CompileStringObject(some, all->file, Py_eval_input, NULL, -1);
    PyObject *names = code == NULL || !PyCode_Check(code) ? NULL : PyList_New(0);
    if (names != NULL && collect_names((PyCodeObject *)code, names)) {
        all->names = PyList_AsTuple(names);
    }
    Py_XDECREF(names);
    Py_XDECREF(code);
    PyErr_Clear();
    return all->names != NULL && PyUnicode_CheckExact(all->file)
           && PyUnicode_CompareWithASCIIString(all->file, "<string>") == 0;
}

static uint64_t
modules_looked_up(const struct session *session)
{
    return session->hits + session->misses + session->stale;
}

/* Has a row of misses shown that nothing is to be gained? */
static bool
has_given_up(loader_state *state)
{
    struct sources *all = &state->sources;
    if (all->missed < MOST_MISSED) {
        return false;
    }
    uint64_t modules = modules_looked_up(state->session);
    if (modules == all->modules_then) {
        return true;
    }
    all->missed = 0;
    return false;
}

/* The state, if the text in the first of `count` arguments is to be looked up now; else NULL. It needs no text where
   compile's are given by name. */
static loader_state *
state_if_wanted(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    loader_state *state = main_state;
    if (state == NULL || PyDict_GET_SIZE(state->sources.module_locks) == 0 || state->session == NULL
        || (count > 0 && !PyUnicode_CheckExact(arguments[0]))) {
        return NULL;
    }
    struct sources *all = &state->sources;
    if (modules_looked_up(state->session) == 0) {
        return NULL; /* site, which runs lines of .pth files: an empty run is to stay one */
    }
    if (!(session_serves(state->session) || state->session->recording) || has_given_up(state)
        || import_is_observed(state) || state->observers != OBSERVERS_KNOWN) {
        return NULL;
    }
    if (!all->tried) {
#if NATIVE_SUPPORTED
        struct native_layout layout = {.interpreter = PyInterpreterState_Get()};
        if (!native_layout_may_make_code(&layout)) {
            return NULL; /* who watches code objects being made sees the program's */
        }
#endif
        all->tried = true;
        all->serves = take_names(state, self);
    }
    return all->serves ? state : NULL;
}

/* The code object from the image; NULL without an exception: there is none, which may be recorded. */
static PyObject *
code_of(loader_state *state, const struct request *request)
{
    struct sources *all = &state->sources;
    struct session *session = state->session;
    struct result_key key;
    if (!make_key(request, &key)) {
        return NULL;
    }
    PyObject *module = Py_NewRef(state->module); /* marshal allocates, which may run a finalizer of the program's */
    const struct module_record *record =
        session_serves(session) ? image_module(&session->image, key.bytes, key.size) : NULL;
    PyObject *code = NULL;
    if (record != NULL && !(record->flags & MODULE_LEFT_OUT)) {
        code = from_entry(state, record, request);
    }
    enum result_note note = RESULT_PASSED_BY;
    if (record == NULL) {
        note = results_note_miss(session, &all->notes, MISS_SOURCE, MODULE_SOURCE, &key);
    }
    else if (record->flags & MODULE_AGED) {
        results_note_aged(session, &all->notes, MISS_SOURCE, &key);
    }
    if (code != NULL) {
        session->source_hits++;
        all->missed = 0;
    }
    else if (note != RESULT_NOTED) {
        all->missed += note == RESULT_KNOWN ? 1 : WEIGHT_OF_MISS;
        all->modules_then = modules_looked_up(session);
    }
    free(key.bytes);
    Py_DECREF(module);
    return code;
}

/* ---- exec and eval ---- */

/* run_eval_code_obj (Python/pythonrun.c, 3.11 to 3.13), which runs texts and not code, takes note of a
   KeyboardInterrupt that ends it: the process will end by SIGINT, even if the exception is caught. And it forgets the
   one before. Here a text is run that does nothing else. */
static void
leave_mark(loader_state *state, PyObject *self)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *globals = PyDict_New();
    PyObject *text = PyUnicode_FromString("raise KeyboardInterrupt");
    if (globals != NULL && text != NULL && !import_is_observed(state)) {
        PyObject *arguments[] = {text, globals};
        Py_XDECREF(call_original(HOOKED_EXEC, self, arguments, 2, NULL));
    }
    Py_XDECREF(text);
    Py_XDECREF(globals);
    PyErr_Clear();
    PyErr_Restore(type, value, traceback);
}

static bool
is_namespace(PyObject *object, bool globals)
{
    return object == Py_None || (globals ? PyDict_Check(object) : PyMapping_Check(object));
}

/* Are the arguments of exec or eval such that nothing but the first one decides between text and code? */
static bool
are_ordinary(PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    Py_ssize_t more = keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords);
    if (count < 1 || count > 3 || count + more > MOST_ARGUMENTS || !PyUnicode_CheckExact(arguments[0])
        || (count > 1 && !is_namespace(arguments[1], true)) || (count > 2 && !is_namespace(arguments[2], false))) {
        return false;
    }
    for (Py_ssize_t i = 0; i < more; i++) {
        PyObject *name = PyTuple_GET_ITEM(keywords, i), *value = arguments[count + i];
        bool ordinary = PyUnicode_CompareWithASCIIString(name, "globals") == 0   ? is_namespace(value, true)
                        : PyUnicode_CompareWithASCIIString(name, "locals") == 0  ? is_namespace(value, false)
                        : PyUnicode_CompareWithASCIIString(name, "closure") == 0 ? value == Py_None
                                                                                 : false;
        if (!ordinary) {
            return false;
        }
    }
    return true;
}

static PyObject *
run(enum hooked which, PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    loader_state *state = state_if_wanted(self, arguments, count);
    PyObject *code = NULL;
    if (state != NULL && state->sources.interrupted) {
        state->sources.interrupted = false; /* the original takes the mark away */
    }
    else if (state != NULL && are_ordinary(arguments, count, keywords)) {
        PyCompilerFlags inherited = _PyCompilerFlags_INIT;
        PyEval_MergeCompilerFlags(&inherited);
        struct request request = {arguments[0], NULL, which == HOOKED_EXEC ? 'm' : 'e', inherited.cf_flags, -1};
        code = code_of(state, &request);
    }
    PyObject *result;
    if (code == NULL) {
        result = call_original(which, self, arguments, count, keywords);
    }
    else {
        PyObject *replaced[MOST_ARGUMENTS] = {code};
        Py_ssize_t all = count + (keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords));
        for (Py_ssize_t i = 1; i < all; i++) {
            replaced[i] = arguments[i];
        }
        result = call_original(which, self, replaced, count, keywords);
        Py_DECREF(code);
    }
    if (result == NULL && PyErr_Occurred() == PyExc_KeyboardInterrupt && main_state != NULL) {
        main_state->sources.interrupted = true;
        if (code != NULL) {
            leave_mark(main_state, self);
        }
    }
    return result;
}

static PyObject *
exec_function(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    return run(HOOKED_EXEC, self, arguments, count, keywords);
}

static PyObject *
exec_without_keywords(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    return run(HOOKED_EXEC, self, arguments, count, NULL);
}

static PyObject *
eval_function(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    return run(HOOKED_EVAL, self, arguments, count, keywords);
}

static PyObject *
eval_without_keywords(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    return run(HOOKED_EVAL, self, arguments, count, NULL);
}

/* ---- compile ---- */

enum compile_argument { SOURCE, FILENAME, MODE, FLAGS, DONT_INHERIT, OPTIMISE, COMPILE_ARGUMENTS };

static const char *const compile_names[COMPILE_ARGUMENTS] = {
    "source", "filename", "mode", "flags", "dont_inherit", "optimize"};

/* Puts the arguments in order, NULL for those that weren't given. False: something is unusual. */
static bool
bind_arguments(PyObject *const *arguments, Py_ssize_t count, PyObject *keywords, PyObject **bound)
{
    if (count > COMPILE_ARGUMENTS) {
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        bound[i] = arguments[i];
    }
    for (Py_ssize_t i = 0; keywords != NULL && i < PyTuple_GET_SIZE(keywords); i++) {
        int slot = 0;
        while (slot < COMPILE_ARGUMENTS
               && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(keywords, i), compile_names[slot]) != 0) {
            slot++;
        }
        if (slot == COMPILE_ARGUMENTS || bound[slot] != NULL) {
            return false;
        }
        bound[slot] = arguments[count + i];
    }
    return bound[SOURCE] != NULL && bound[FILENAME] != NULL && bound[MODE] != NULL;
}

/* An exact int that fits, or what stands for an argument that wasn't given. False: anything else. */
static bool
number_of(PyObject *object, int missing, int *number)
{
    int overflow = 0;
    long value = missing;
    if (object != NULL) {
        if (!PyLong_CheckExact(object)) {
            return false;
        }
        value = PyLong_AsLongAndOverflow(object, &overflow);
    }
    *number = (int)value;
    return overflow == 0 && value >= -1 && value <= 0x7fffffff;
}

/* What a call of compile asks for. False: not for us. */
static bool
read_request(PyObject *const *arguments, Py_ssize_t count, PyObject *keywords, struct request *request)
{
    PyObject *bound[COMPILE_ARGUMENTS] = {NULL};
    int dont_inherit = 0;
    if (!bind_arguments(arguments, count, keywords, bound) || !PyUnicode_CheckExact(bound[SOURCE])
        || !PyUnicode_CheckExact(bound[FILENAME]) || !PyUnicode_CheckExact(bound[MODE])
        || !number_of(bound[FLAGS], 0, &request->flags) || request->flags & ~PyCF_MASK
        || !number_of(bound[OPTIMISE], -1, &request->optimise) || request->optimise > 2
        || !(PyBool_Check(bound[DONT_INHERIT] == NULL ? Py_False : bound[DONT_INHERIT])
             || number_of(bound[DONT_INHERIT], 0, &dont_inherit))) {
        return false;
    }
    bool module = PyUnicode_CompareWithASCIIString(bound[MODE], "exec") == 0;
    if (!module && PyUnicode_CompareWithASCIIString(bound[MODE], "eval") != 0) {
        return false;
    }
    if (bound[DONT_INHERIT] != Py_True && dont_inherit == 0) {
        PyCompilerFlags inherited = _PyCompilerFlags_INIT;
        inherited.cf_flags = request->flags;
        PyEval_MergeCompilerFlags(&inherited);
        request->flags = inherited.cf_flags;
    }
    request->text = bound[SOURCE];
    request->file = bound[FILENAME];
    request->mode = module ? 'm' : 'e';
    return true;
}

/* compile() makes the classes of the module `ast` at its first call (Python/bltinmodule.c, PyAST_Check), which shows in
   object.__subclasses__(). So does ours. */
static void
make_ast_types(loader_state *state, PyObject *self)
{
    if (!state->sources.has_ast_types) {
        state->sources.has_ast_types = true;
        PyObject *arguments[] = {PyUnicode_FromString(""), PyUnicode_FromString(""), PyUnicode_FromString("exec")};
        if (arguments[0] != NULL && arguments[1] != NULL && arguments[2] != NULL) {
            Py_XDECREF(call_original(HOOKED_COMPILE, self, arguments, 3, NULL));
        }
        PyErr_Clear();
        for (int i = 0; i < 3; i++) {
            Py_XDECREF(arguments[i]);
        }
    }
}

static PyObject *
compile_function(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    loader_state *state = state_if_wanted(self, arguments, count);
    struct request request;
    PyObject *code = NULL;
    if (state != NULL && read_request(arguments, count, keywords, &request)) {
        code = code_of(state, &request);
    }
    if (code == NULL) {
        return call_original(HOOKED_COMPILE, self, arguments, count, keywords);
    }
    make_ast_types(state, self);
    return code;
}

/* ---- putting them in place ---- */

static PyCFunction
replacement_of(enum hooked which, bool keywords)
{
    static const function_with_keywords with[HOOKED] = {exec_function, eval_function, compile_function};
    static const function_without_keywords without[HOOKED] = {exec_without_keywords, eval_without_keywords, NULL};
    return keywords ? (PyCFunction)(void (*)(void))with[which] : (PyCFunction)(void (*)(void))without[which];
}

/* Puts ours behind one function object, if it is the built-in one and called as ours is. */
static void
hook(enum hooked which, PyObject *builtins)
{
    PyObject *function = PyDict_GetItemString(PyModule_GetDict(builtins), hooked_names[which]);
    if (function == NULL || !PyCFunction_CheckExact(function) || PyCFunction_GET_SELF(function) != builtins) {
        return;
    }
    PyCFunctionObject *object = (PyCFunctionObject *)function;
    PyMethodDef *definition = object->m_ml;
    PyCFunction ours = replacement_of(which, definition->ml_flags == (METH_FASTCALL | METH_KEYWORDS));
    if (definition == &replacements[which] || ours == NULL || (definition->ml_flags & ~METH_KEYWORDS) != METH_FASTCALL
        || strcmp(definition->ml_name, hooked_names[which]) != 0
        || (originals[which] != NULL && originals[which] != definition)) {
        return;
    }
    originals[which] = definition;
    replacements[which] = *definition;
    replacements[which].ml_meth = ours;
    object->m_ml = &replacements[which];
}

void
sources_install(loader_state *state)
{
    struct sources *all = &state->sources;
    if (state->session->settings.skipped & ACCELERATION_SOURCE) {
        return;
    }
    PyObject *bootstrap = loaded_module("_frozen_importlib");
    PyObject *builtins = loaded_module("builtins");
    PyObject *locks = bootstrap == NULL || !PyModule_Check(bootstrap)
                          ? NULL
                          : PyDict_GetItemString(PyModule_GetDict(bootstrap), "_module_locks");
    if (locks != NULL && PyDict_CheckExact(locks) && builtins != NULL && PyModule_Check(builtins)) {
        all->module_locks = Py_NewRef(locks);
        for (int which = 0; which < HOOKED; which++) {
            hook(which, builtins);
        }
        /* all of them: each is used in place of another */
        if (originals[HOOKED_EXEC] != NULL && originals[HOOKED_EVAL] != NULL && originals[HOOKED_COMPILE] != NULL) {
            main_state = state;
        }
    }
    Py_XDECREF(bootstrap);
    Py_XDECREF(builtins);
    PyErr_Clear();
}

#define FOR_EACH_SOURCE_OBJECT(state, DO)                                                                              \
    DO((state)->sources.module_locks);                                                                                 \
    DO((state)->sources.file);                                                                                         \
    DO((state)->sources.names);

void
sources_clear(loader_state *state)
{
    if (main_state == state) {
        main_state = NULL;
    }
    state->sources.serves = false;
    results_clear(&state->sources.notes);
    FOR_EACH_SOURCE_OBJECT(state, Py_CLEAR)
}

int
sources_traverse(loader_state *state, visitproc visit, void *arg)
{
    FOR_EACH_SOURCE_OBJECT(state, Py_VISIT)
    return 0;
}
