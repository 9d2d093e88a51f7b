/* The loader of a hit: importlib's SourceFileLoader with one method replaced. get_code takes the code object from the
   image if one stat shows the source as the image recorded it; in every other case, and for every other method, it is
   SourceFileLoader itself. exec_module is inherited, so that frames and tracebacks of an import are as ever. */
#include "state.h"

#include <marshal.h>

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "recorder.h"

/* Decodes a verified payload. NULL without an exception: it is no code object; with one: no memory. */
static PyObject *
decode(const unsigned char *payload, size_t size)
{
    PyObject *code = PyMarshal_ReadObjectFromString((const char *)payload, (Py_ssize_t)size);
    if (code == NULL && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        return NULL;
    }
    if (code == NULL || !PyCode_Check(code)) {
        PyErr_Clear();
        Py_CLEAR(code);
    }
    return code;
}

/* The code object of the source `path` from the image. NULL without an exception: not there, changed or damaged; with
   one: no memory. */
static PyObject *
archived_code(struct session *session, const char *path)
{
    const struct module_record *module = image_module(&session->image, path, strlen(path));
    if (module == NULL || module->flags & MODULE_LEFT_OUT) {
        return NULL;
    }
    if (!session->settings.trust) {
        struct stat now;
        int failed;
        Py_BEGIN_ALLOW_THREADS
        failed = stat(path, &now);
        Py_END_ALLOW_THREADS
        if (failed || !module_matches(module, &now)) {
            session->stale++;
            recorder_note(session, MISS_CHANGED, path);
            return NULL;
        }
        if (!(now.st_mode & S_IROTH) && geteuid() != session->effective_user) {
            return NULL; /* perhaps it may not be read any more */
        }
    }
    size_t size;
    const unsigned char *payload = image_payload(&session->image, module, &size);
    PyObject *code = payload == NULL ? NULL : decode(payload, size);
    if (code == NULL) {
        if (!PyErr_Occurred()) {
            session_set_reason(session, "image damaged: code of a module");
            recorder_note(session, MISS_MODULE, path);
        }
        return NULL;
    }
    session->hits++;
    if (module->flags & MODULE_AGED) {
        recorder_note(session, MISS_AGED, path);
    }
    return code;
}

/* self.get_filename(fullname) where it gives a plain path; borrowed from *keep. NULL without an exception: it would
   raise, or give something else. */
static const char *
filename_of(loader_state *state, PyObject *self, PyObject *full_name, PyObject **keep)
{
    PyObject *name = PyObject_GetAttr(self, state->strings.name);
    const char *path = NULL;
    Py_ssize_t bytes;
    if (name != NULL && PyUnicode_CheckExact(name) && PyUnicode_CheckExact(full_name)
        && PyUnicode_Compare(name, full_name) == 0) {
        *keep = PyObject_GetAttr(self, state->strings.path);
        if (*keep != NULL && PyUnicode_CheckExact(*keep)) {
            path = PyUnicode_AsUTF8AndSize(*keep, &bytes);
            if (path != NULL && strlen(path) != (size_t)bytes) {
                path = NULL;
            }
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
        && state->session != NULL && session_serves(state->session) && importlib_is_untouched(state)) {
        PyObject *keep = NULL;
        const char *path = !is_plain_instance(arguments[0]) ? NULL : filename_of(state, arguments[0], arguments[1], &keep);
        PyObject *code = path == NULL ? NULL : archived_code(state->session, path);
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
