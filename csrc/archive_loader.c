/* The loader of a hit: importlib's SourceFileLoader with one method replaced. get_code takes the code object from the
   image if one stat shows the source as the image recorded it; in every other case, and for every other method, it is
   SourceFileLoader itself. exec_module is inherited, so that frames and tracebacks of an import are as ever. */
#include "state.h"

#include <marshal.h>

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "classes.h"
#include "finalization.h"
#include "frame_chunks.h"
#include "patterns.h"
#include "recorder.h"
#include "results.h"
#include "shortcuts.h"

/* A code object or NULL without an exception. If there is no memory for the arena (mlockall, a limit set by the program
   itself), there may be enough for what plain Python needs; else it raises the exception. */
static PyObject *
code_or_null(struct session *session, PyObject *code)
{
    if (code == NULL && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        session_set_reason(session, "out of memory");
        session->recording = false; /* a rebuild would change nothing */
    }
    if (code == NULL || !PyCode_Check(code)) {
        PyErr_Clear();
        Py_CLEAR(code);
    }
    return code;
}

/* ---- the native encoding ---- */

#if NATIVE_SUPPORTED

/* Prepares decoding at the first module that needs it. NULL, or the reason why there will be none. */
static const char *
native_prepare(loader_state *state)
{
    struct image *image = &state->session->image;
    const struct image_header *header = image->header;
    state->native.progress = NATIVE_REFUSED; /* also for imports that the preparation itself might cause */
    if (!image_make_private(image) || !image_has(image, header->shared_table, header->shared_table_bytes)) {
        return "archive cannot be mapped";
    }
    state->native.decoded = calloc((size_t)header->module_count / 8 + 1, 1);
    if (state->native.decoded == NULL) {
        return "out of memory";
    }
    const char *reason = native_open(
        &state->native.context, image->bytes + header->shared_table, (size_t)header->shared_table_bytes, true);
    if (reason == NULL) {
        state->native.progress = NATIVE_OPEN;
        if (state->session->settings.skipped & ACCELERATION_GC) {
            state->native.context.layout.young_threshold = 0;
        }
    }
    return reason;
}

/* May this module be decoded now? What is decoded is never freed, so each module is decoded once: a reload or a second
   import takes the ordinary way. */
static bool
native_may_decode(loader_state *state, uint32_t index)
{
    if (state->native.progress == NATIVE_OPEN && state->native.decoded[index / 8] >> index % 8 & 1) {
        return false;
    }
    /* Watchers are looked for before the preparation, too: that makes code objects, and is not done twice. */
    struct native_layout layout = {.interpreter = PyInterpreterState_Get()};
    return native_layout_may_make_code(&layout);
}

static PyObject *
decode_native(loader_state *state, uint32_t index, const unsigned char *payload, size_t size)
{
    if (state->native.progress == NATIVE_DUE) {
        const char *reason = native_prepare(state);
        if (reason != NULL) {
            session_set_reason(state->session, reason);
        }
    }
    if (state->native.progress != NATIVE_OPEN) {
        return NULL;
    }
    state->native.decoded[index / 8] |= (unsigned char)(1 << index % 8);
    native_layout_postpone_collection(&state->native.context.layout);
    return native_decode(&state->native.context, payload, size);
}

void
loader_clear(loader_state *state)
{
    if (state->native.progress == NATIVE_OPEN) {
        native_close(&state->native.context);
    }
    free(state->native.decoded);
    state->native.decoded = NULL;
    state->native.progress = NATIVE_REFUSED;
}

#else

static bool
native_may_decode(loader_state *state, uint32_t index)
{
    (void)index;
    session_set_reason(state->session, NATIVE_UNSUPPORTED);
    return false;
}

static PyObject *
decode_native(loader_state *state, uint32_t index, const unsigned char *payload, size_t size)
{
    (void)state, (void)index, (void)payload, (void)size;
    return NULL;
}

void
loader_clear(loader_state *state)
{
    (void)state;
}

#endif

/* ---- a module's code ---- */

/* A program that imports next to nothing (a sitecustomize, say) isn't to pay for what makes many imports faster. */
#define WORTH_INSTALLING 3

static int64_t
now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The code object of a module, from the mapping. NULL without an exception: damaged, and the session says so. */
static PyObject *
decode(loader_state *state, const struct module_record *module, uint32_t index)
{
    struct session *session = state->session;
    int64_t started = session->settings.log ? now_ns() : 0;
    size_t size = 0;
    const unsigned char *payload = image_payload(&session->image, module, &size);
    PyObject *code = NULL;
    if (payload != NULL && session->image.header->encoding == IMAGE_ENCODING_NATIVE) {
        code = decode_native(state, index, payload, size);
        image_used_payload(&session->image, size);
    }
    else if (payload != NULL) {
        code = PyMarshal_ReadObjectFromString((const char *)payload, (Py_ssize_t)size);
    }
    code = code_or_null(session, code);
    if (session->settings.log) {
        session->load_ns += now_ns() - started;
    }
    if (code == NULL && session->reason[0] == '\0') {
        session_set_reason(session, "archive damaged: code of a module");
    }
    return code;
}

/* stat of a loader's source, unless its finder made it just now. */
static bool
source_stat(loader_state *state, PyObject *loader, const char *path, struct stat *now)
{
    if (state->found.loader == loader) {
        *now = state->found.status;
        Py_CLEAR(state->found.loader);
        return true;
    }
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = stat(path, now);
    Py_END_ALLOW_THREADS
    return !failed;
}

/* The code object of the source `path` from the image. NULL without an exception: not there, changed, damaged, or no
   memory. */
static PyObject *
archived_code(loader_state *state, PyObject *loader, const char *path)
{
    struct session *session = state->session;
    const struct module_record *module = image_module(&session->image, path, strlen(path));
    if (module == NULL || module->flags & MODULE_LEFT_OUT) {
        return NULL;
    }
    uint32_t index = image_module_index(&session->image, module);
    if (session->image.header->encoding == IMAGE_ENCODING_NATIVE && !native_may_decode(state, index)) {
        if (!session_serves(session)) {
            recorder_note(session, MISS_MODULE, path); /* the rebuilder will find the same, and take marshal */
        }
        return NULL;
    }
    if (!session->settings.trust) {
        struct stat now;
        if (!source_stat(state, loader, path, &now) || !module_matches(module, &now)) {
            session->stale++;
            recorder_note(session, MISS_CHANGED, path);
            return NULL;
        }
        if (!stat_may_be_read(path, &now)) {
            return NULL;
        }
    }
    PyObject *code = decode(state, module, index);
    if (code == NULL) {
        recorder_note(session, MISS_MODULE, path);
        return NULL;
    }
    session->hits++;
    patterns_install(state);
    if (session->hits >= WORTH_INSTALLING) {
        shortcuts_install(state);
        classes_install(state);
        finalization_arm(state);
    }
    if (!(session->settings.skipped & ACCELERATION_FRAMES)) {
        frame_chunks_keep_one();
    }
    if (module->flags & MODULE_AGED) {
        recorder_note(session, MISS_AGED, path);
    }
    return code;
}

/* self.get_filename(fullname) where it gives a plain path; borrowed from *keep, in utf-8, and not left inside the str,
   which would get larger for the program. NULL without an exception: it would raise, or give something else. */
static const char *
filename_of(loader_state *state, PyObject *self, PyObject *full_name, PyObject **keep)
{
    PyObject *name = PyObject_GetAttr(self, state->strings.name);
    const char *path = NULL;
    if (name != NULL && PyUnicode_CheckExact(name) && PyUnicode_CheckExact(full_name)
        && PyUnicode_Compare(name, full_name) == 0) {
        *keep = PyObject_GetAttr(self, state->strings.path);
        PyObject *encoded = NULL;
        size_t bytes;
        if (*keep != NULL && PyUnicode_CheckExact(*keep)
            && (!result_text(*keep, &encoded, &path, &bytes) || strlen(path) != bytes)) {
            path = NULL;
        }
        if (encoded != NULL) {
            Py_SETREF(*keep, encoded);
        }
    }
    Py_XDECREF(name);
    PyErr_Clear();
    return path;
}

/* Has the loader nothing but the name and path it was made with (no get_data of its own, say)? */
static bool
is_plain_instance(PyObject *loader)
{
    PyObject *dictionary = PyObject_GenericGetDict(loader, NULL);
    bool plain = dictionary != NULL && PyDict_Size(dictionary) == 2;
    Py_XDECREF(dictionary);
    PyErr_Clear();
    return plain;
}

PyDoc_STRVAR(
    get_code_doc,
    "get_code($module, self, fullname)\n--\n\n"
    "The module's code object: from the archive if its source is unchanged, else as SourceFileLoader.get_code.");

/* A builtin function bound to the module, not a method: arguments[0] is the loader (see make_loader_type). */
static PyObject *
loader_get_code(PyObject *module, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    loader_state *state = PyModule_GetState(module);
    if (state == NULL || state->source_file_loader == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "pycds_auto._loader was cleared");
        return NULL;
    }
    if (count == 2 && keywords == NULL && (PyObject *)Py_TYPE(arguments[0]) == state->loader_type
        && state->session != NULL && session_serves(state->session) && !import_is_observed(state)
        && importlib_is_untouched(state)) {
        PyObject *keep = NULL;
        const char *path =
            !is_plain_instance(arguments[0]) ? NULL : filename_of(state, arguments[0], arguments[1], &keep);
        PyObject *code = path == NULL ? NULL : archived_code(state, arguments[0], path);
        Py_XDECREF(keep);
        if (code != NULL || PyErr_Occurred()) {
            return code;
        }
    }
    PyObject *plain = PyObject_GetAttr(state->source_file_loader, state->strings.get_code);
    PyObject *code = plain == NULL ? NULL : PyObject_Vectorcall(plain, arguments, (size_t)count, keywords);
    Py_XDECREF(plain);
    return code;
}

static PyMethodDef get_code_definition = {
    "get_code", (PyCFunction)(void (*)(void))loader_get_code, METH_FASTCALL | METH_KEYWORDS, get_code_doc};

PyDoc_STRVAR(reduce_doc, "Pickled as the SourceFileLoader that it stands for: the reader may not have pycds-auto.");

static PyObject *
loader_reduce(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    loader_state *state = PyModule_GetState(module);
    if (count != 2 || state == NULL || state->source_file_loader == NULL) {
        PyErr_SetString(PyExc_TypeError, "__reduce_ex__() takes exactly one argument");
        return NULL;
    }
    PyObject *name = PyObject_GetAttr(arguments[0], state->strings.name);
    PyObject *path = name == NULL ? NULL : PyObject_GetAttr(arguments[0], state->strings.path);
    PyObject *dictionary = path == NULL ? NULL : PyObject_GenericGetDict(arguments[0], NULL);
    if (dictionary == NULL) {
        Py_XDECREF(name);
        Py_XDECREF(path);
        return NULL;
    }
    return Py_BuildValue("O(NN)N", state->source_file_loader, name, path, dictionary);
}

static PyMethodDef reduce_definition = {
    "__reduce_ex__", (PyCFunction)(void (*)(void))loader_reduce, METH_FASTCALL, reduce_doc};

/* ---- the class of the class ---- */

/* Programs look loaders up by type: pip's vendored distlib, for one, has a dictionary with SourceFileLoader as a key,
   and fails for any other type. So our class equals its base, and hashes alike. */

static PyObject *
metaclass_compare(PyObject *self, PyObject *other, int operation)
{
    PyTypeObject *base = ((PyTypeObject *)self)->tp_base;
    bool equal = self == other || other == (PyObject *)base;
    if (operation == Py_EQ && equal) {
        Py_RETURN_TRUE;
    }
    if (operation == Py_NE && equal) {
        Py_RETURN_FALSE;
    }
    Py_RETURN_NOTIMPLEMENTED;
}

static Py_hash_t
metaclass_hash(PyObject *self)
{
    return PyObject_Hash((PyObject *)((PyTypeObject *)self)->tp_base);
}

/* A class that derives from ours derives from SourceFileLoader, and is an ordinary class. */
static PyObject *
metaclass_new(PyTypeObject *metaclass, PyObject *arguments, PyObject *keywords)
{
    PyObject *name, *bases, *namespace;
    if (!PyArg_ParseTuple(arguments, "OO!O", &name, &PyTuple_Type, &bases, &namespace)) {
        return NULL;
    }
    PyObject *plain = PyTuple_New(PyTuple_GET_SIZE(bases));
    bool derives = false;
    for (Py_ssize_t i = 0; plain != NULL && i < PyTuple_GET_SIZE(bases); i++) {
        PyObject *base = PyTuple_GET_ITEM(bases, i);
        if (Py_TYPE(base) == metaclass) {
            base = (PyObject *)((PyTypeObject *)base)->tp_base;
            derives = true;
        }
        PyTuple_SET_ITEM(plain, i, Py_NewRef(base));
    }
    PyObject *result = NULL;
    if (plain != NULL && !derives) {
        result = PyType_Type.tp_new(metaclass, arguments, keywords);
    }
    else if (plain != NULL) {
        PyObject *again = PyTuple_Pack(3, name, plain, namespace);
        result = again == NULL ? NULL : PyObject_Call((PyObject *)&PyType_Type, again, keywords);
        Py_XDECREF(again);
    }
    Py_XDECREF(plain);
    return result;
}

static PyType_Slot metaclass_slots[] = {
    {Py_tp_new, metaclass_new},
    {Py_tp_richcompare, metaclass_compare},
    {Py_tp_hash, metaclass_hash},
    {0, NULL},
};

static PyType_Spec metaclass_spec = {
    .name = "pycds_auto._loader.LoaderType",
    .basicsize = 0,
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = metaclass_slots,
};

/* A bound-to-instance method out of a C function bound to the module. */
static PyObject *
method_of_module(PyObject *module, PyMethodDef *definition)
{
    PyObject *function = PyCFunction_New(definition, module);
    PyObject *method = function == NULL ? NULL : PyInstanceMethod_New(function);
    Py_XDECREF(function);
    return method;
}

/* class SourceFileLoader(SourceFileLoader, metaclass=LoaderType): made by calling the metaclass, as a class statement
   would, since 3.11 has no PyType_FromMetaclass. It goes by its base's name: a spec's repr is part of what programs
   print. */
static PyObject *
make_loader_type(PyObject *module, loader_state *state)
{
    PyObject *metaclass = PyType_FromSpecWithBases(&metaclass_spec, (PyObject *)&PyType_Type);
    PyObject *base = state->source_file_loader;
    PyObject *get_code = method_of_module(module, &get_code_definition);
    PyObject *reduce = method_of_module(module, &reduce_definition);
    PyObject *base_module = PyObject_GetAttrString(base, "__module__");
    PyObject *base_doc = PyObject_GetAttrString(base, "__doc__");
    PyObject *type = NULL;
    if (metaclass != NULL && get_code != NULL && reduce != NULL && base_module != NULL && base_doc != NULL) {
        type = PyObject_CallFunction(
            metaclass, "s(O){s:O,s:O,s:(),s:O,s:O}", ((PyTypeObject *)base)->tp_name, base, "__module__", base_module,
            "__doc__", base_doc, "__slots__", "get_code", get_code, "__reduce_ex__", reduce);
    }
    if (type != NULL && PyObject_DelAttrString(type, "__slots__") != 0) { /* did its work; dir(loader) would show it */
        Py_CLEAR(type);
    }
    Py_XDECREF(metaclass);
    Py_XDECREF(get_code);
    Py_XDECREF(reduce);
    Py_XDECREF(base_module);
    Py_XDECREF(base_doc);
    return type;
}

PyObject *
loader_type(loader_state *state)
{
    if (state->loader_type == NULL) {
        state->loader_type = make_loader_type(state->module, state);
    }
    return state->loader_type;
}
