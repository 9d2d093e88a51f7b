/* The loader of a hit: importlib's SourceFileLoader with one method replaced. get_code takes the code object from the
   image if one stat shows the source as the image recorded it; in every other case, and for every other method, it is
   SourceFileLoader itself. exec_module is inherited, so that frames and tracebacks of an import are as ever. */
#include "state.h"

#include <marshal.h>

#include <string.h>
#include <sys/stat.h>

#include "recorder.h"

/* Decodes a verified payload. NULL without an exception: it is no code object. */
static PyObject *
decode(const unsigned char *payload, size_t size)
{
    PyObject *code = PyMarshal_ReadObjectFromString((const char *)payload, (Py_ssize_t)size);
    if (code == NULL || !PyCode_Check(code)) {
        PyErr_Clear();
        Py_CLEAR(code);
    }
    return code;
}

/* The code object of the source `path` from the image. NULL without an exception: not there, changed or damaged. */
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
    }
    size_t size;
    const unsigned char *payload = image_payload(&session->image, module, &size);
    PyObject *code = payload == NULL ? NULL : decode(payload, size);
    if (code == NULL) {
        session_set_reason(session, "image damaged: code of a module");
        recorder_note(session, MISS_MODULE, path);
        return NULL;
    }
    session->hits++;
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

PyDoc_STRVAR(
    get_code_doc,
    "get_code($self, fullname, /)\n--\n\n"
    "The module's code object: from the archive if its source is unchanged, else as SourceFileLoader.get_code.");

static PyObject *
loader_get_code(
    PyObject *self, PyTypeObject *type, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    loader_state *state = PyType_GetModuleState(type);
    if (state == NULL || state->plain_get_code == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "pycds_auto._loader was cleared");
        return NULL;
    }
    if (count == 1 && keywords == NULL && Py_TYPE(self) == type && state->session != NULL
        && session_serves(state->session) && importlib_is_untouched(state)) {
        PyObject *keep = NULL;
        const char *path = filename_of(state, self, arguments[0], &keep);
        PyObject *code = path == NULL ? NULL : archived_code(state->session, path);
        Py_XDECREF(keep);
        if (code != NULL) {
            return code;
        }
    }
    PyObject *stack[4] = {self};
    if (count > 3 || (keywords != NULL && count + PyTuple_GET_SIZE(keywords) > 3)) {
        PyErr_SetString(PyExc_TypeError, "get_code() takes 1 argument");
        return NULL;
    }
    Py_ssize_t total = count + (keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords));
    for (Py_ssize_t i = 0; i < total; i++) {
        stack[i + 1] = arguments[i];
    }
    return PyObject_Vectorcall(state->plain_get_code, stack, (size_t)count + 1, keywords);
}

static PyMethodDef loader_methods[] = {
    {"get_code", (PyCFunction)(void (*)(void))loader_get_code, METH_METHOD | METH_FASTCALL | METH_KEYWORDS,
     get_code_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(loader_doc, "importlib.machinery.SourceFileLoader for a module whose code is in the archive.");

static PyType_Slot loader_slots[] = {
    {Py_tp_doc, (void *)loader_doc},
    {Py_tp_methods, loader_methods},
    {0, NULL},
};

static PyType_Spec loader_spec = {
    .name = "pycds_auto._loader.Loader",
    .basicsize = 0, /* as the base: name and path lie in the instance's dictionary */
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = loader_slots,
};

PyObject *
make_loader_type(PyObject *module, PyObject *source_file_loader)
{
    return PyType_FromModuleAndSpec(module, &loader_spec, source_file_loader);
}
