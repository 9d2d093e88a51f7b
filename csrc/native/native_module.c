/* Stand-alone packaging of the native encoding, for tests and measurements: not for the product. */
#include "native_decode.h"
#include "native_encode.h"

#include <string.h>
#include <time.h>

typedef struct {
    struct native_context context;
    bool open;
    Py_buffer table;
} module_state;

static PyObject *
encode(PyObject *module, PyObject *arguments)
{
    module_state *state = PyModule_GetState(module);
    PyObject *codes, *orders;
    int extend = 0;
    if (!PyArg_ParseTuple(arguments, "O!O!|p", &PyList_Type, &codes, &PyList_Type, &orders, &extend)) {
        return NULL;
    }
    return native_encode(extend && state->open ? &state->context : NULL, codes, orders);
}

static PyObject *
verify(PyObject *module, PyObject *arguments)
{
    module_state *state = PyModule_GetState(module);
    PyObject *stream, *marshalled;
    if (!PyArg_ParseTuple(arguments, "O!O!", &PyBytes_Type, &stream, &PyBytes_Type, &marshalled)) {
        return NULL;
    }
    if (!state->open) {
        PyErr_SetString(PyExc_ValueError, "no table is open");
        return NULL;
    }
    return native_verify(&state->context, stream, marshalled);
}

static PyObject *
open_table(PyObject *module, PyObject *arguments)
{
    module_state *state = PyModule_GetState(module);
    Py_buffer table;
    if (!PyArg_ParseTuple(arguments, "y*", &table)) {
        return NULL;
    }
    if (state->open) {
        native_close(&state->context);
        PyBuffer_Release(&state->table);
        state->open = false;
    }
    const char *reason = native_open(&state->context, table.buf, (size_t)table.len, true);
    if (reason != NULL) {
        PyBuffer_Release(&table);
        PyErr_SetString(PyExc_ValueError, reason);
        return NULL;
    }
    state->table = table;
    state->open = true;
    Py_RETURN_NONE;
}

static PyObject *
decode(PyObject *module, PyObject *argument)
{
    module_state *state = PyModule_GetState(module);
    Py_buffer stream;
    if (PyObject_GetBuffer(argument, &stream, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    PyObject *code = NULL;
    if (state->open) {
        code = native_decode(&state->context, stream.buf, (size_t)stream.len);
    }
    if (code == NULL) {
        PyBuffer_Release(&stream); /* else never: byte strings in place */
    }
    if (code == NULL && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_ValueError, "malformed stream");
    }
    return code;
}

static PyObject *
arena_bytes(PyObject *module, PyObject *unused)
{
    (void)unused;
    return PyLong_FromSize_t(((module_state *)PyModule_GetState(module))->context.arena.mapped);
}

static PyMethodDef methods[] = {
    {"encode", encode, METH_VARARGS, "encode(codes, orders, extend=False) -> (table, streams)"},
    {"verify", verify, METH_VARARGS, "verify(stream, marshalled) -> None or a difference"},
    {"open", open_table, METH_VARARGS, "open(table)"},
    {"decode", decode, METH_O, "decode(stream) -> code object"},
    {"arena_bytes", arena_bytes, METH_NOARGS, "bytes mapped for the arena"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef_Slot slots[] = {
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_size = sizeof(module_state),
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
