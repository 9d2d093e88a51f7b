#include "encoding.h"

#include "native_decode.h"
#include "native_encode.h"

#include <string.h>

#if NATIVE_SUPPORTED

/* Opens a context for a table of a caller's; it is gone when the caller is, so nothing may be in place in it: nothing
   is (native_format.h, byte strings in place are in streams only). False: ValueError. */
static bool
open_context(struct native_context *context, const Py_buffer *table)
{
    const char *reason = native_open(context, table->buf, (size_t)table->len, true);
    if (reason != NULL) {
        PyErr_SetString(PyExc_ValueError, reason);
    }
    return reason == NULL;
}

/* A result for each of a list's streams, made by `one` of the stream and the same item of `others` (may be NULL). */
static PyObject *
for_each_stream(
    struct native_context *context, PyObject *streams, PyObject *others,
    PyObject *(*one)(struct native_context *, PyObject *, PyObject *))
{
    PyObject *results = PyList_New(0);
    for (Py_ssize_t i = 0; results != NULL && i < PyList_GET_SIZE(streams); i++) {
        PyObject *other = others == NULL ? NULL : PyList_GetItem(others, i);
        PyObject *result = others != NULL && other == NULL ? NULL : one(context, PyList_GET_ITEM(streams, i), other);
        if (result == NULL || PyList_Append(results, result) < 0) {
            Py_CLEAR(results);
        }
        Py_XDECREF(result);
    }
    return results;
}

static PyObject *
decode_one(struct native_context *context, PyObject *stream, PyObject *unused)
{
    (void)unused;
    if (!PyBytes_CheckExact(stream)) {
        PyErr_SetString(PyExc_TypeError, "streams must be bytes");
        return NULL;
    }
    size_t size = (size_t)PyBytes_GET_SIZE(stream);
    void *copy = native_arena_take(&context->arena, size ? size : 1); /* byte strings in place stay in use */
    if (copy == NULL) {
        return PyErr_NoMemory();
    }
    memcpy(copy, PyBytes_AS_STRING(stream), size);
    PyObject *code = native_decode(context, copy, size);
    if (code == NULL && !PyErr_Occurred()) {
        Py_RETURN_NONE;
    }
    return code;
}

#else

#define RETURN_UNSUPPORTED                                                                                             \
    PyErr_SetString(PyExc_ValueError, NATIVE_UNSUPPORTED);                                                             \
    return NULL

#endif

const char native_reason_doc[] = PyDoc_STR(
    "native_reason($module, /)\n--\n\n"
    "Why this interpreter can't use the native encoding (str), or None.");

PyObject *
encoding_reason(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
#if NATIVE_SUPPORTED
    struct native_context context;
    const char *reason = native_open(&context, NULL, 0, true);
    if (reason == NULL) {
        native_close(&context);
        Py_RETURN_NONE;
    }
    return PyUnicode_FromString(reason);
#else
    return PyUnicode_FromString(NATIVE_UNSUPPORTED);
#endif
}

const char native_encode_doc[] = PyDoc_STR(
    "native_encode($module, codes, orders, table, /)\n--\n\n"
    "Encodes a list of code objects as marshal.loads makes them, never executed; orders: for each, the items of its\n"
    "frozensets in marshal's order. table: shared table that the new one is to begin with (b'': none).\n"
    "Returns (shared table, list of streams: bytes, or str with the reason why a module can't be encoded).\n"
    "Raises ValueError if the table is damaged or the native encoding can't be used here.");

PyObject *
encoding_encode(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *codes, *orders;
    Py_buffer table;
    if (!PyArg_ParseTuple(arguments, "O!O!y*:native_encode", &PyList_Type, &codes, &PyList_Type, &orders, &table)) {
        return NULL;
    }
#if NATIVE_SUPPORTED
    PyObject *result = NULL;
    struct native_context base;
    if (PyList_GET_SIZE(codes) != PyList_GET_SIZE(orders)) {
        PyErr_SetString(PyExc_ValueError, "codes and orders must be of one length");
    }
    else if (open_context(&base, &table)) {
        result = native_encode(table.len == 0 ? NULL : &base, codes, orders);
        native_close(&base);
    }
    PyBuffer_Release(&table);
    return result;
#else
    PyBuffer_Release(&table);
    RETURN_UNSUPPORTED;
#endif
}

const char native_verify_doc[] = PyDoc_STR(
    "native_verify($module, table, streams, marshalled, /)\n--\n\n"
    "For each stream None if it decodes to what marshal makes of the same item of `marshalled`, else a str that says\n"
    "where they differ. What is decoded is never freed. Raises ValueError if the table is damaged.");

PyObject *
encoding_verify(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *streams, *marshalled;
    Py_buffer table;
    if (!PyArg_ParseTuple(
            arguments, "y*O!O!:native_verify", &table, &PyList_Type, &streams, &PyList_Type, &marshalled)) {
        return NULL;
    }
#if NATIVE_SUPPORTED
    PyObject *results = NULL;
    struct native_context context;
    if (open_context(&context, &table)) {
        results = for_each_stream(&context, streams, marshalled, native_verify);
        native_close(&context);
    }
    PyBuffer_Release(&table);
    return results;
#else
    PyBuffer_Release(&table);
    RETURN_UNSUPPORTED;
#endif
}

const char native_decode_doc[] = PyDoc_STR(
    "native_decode($module, table, streams, /)\n--\n\n"
    "The code object of each stream; None for one that is malformed. They are never freed. Raises ValueError if the\n"
    "table is damaged.");

PyObject *
encoding_decode(PyObject *module, PyObject *arguments)
{
    (void)module;
    PyObject *streams;
    Py_buffer table;
    if (!PyArg_ParseTuple(arguments, "y*O!:native_decode", &table, &PyList_Type, &streams)) {
        return NULL;
    }
#if NATIVE_SUPPORTED
    PyObject *results = NULL;
    struct native_context context;
    if (open_context(&context, &table)) {
        results = for_each_stream(&context, streams, NULL, decode_one);
        native_close(&context);
    }
    PyBuffer_Release(&table);
    return results;
#else
    PyBuffer_Release(&table);
    RETURN_UNSUPPORTED;
#endif
}
