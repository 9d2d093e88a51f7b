#include "foreign_finder.h"

#include <string.h>

#include "checksum.h"
#include "native_layout.h"

/* Checksums of the bytecode of DistutilsMetaFinder.find_spec and of the lambda in it, as PyCode_GetCode has them: without
   what the interpreter specialised. By minor release: the bytecode of one doesn't change (Lib/importlib/
   _bootstrap_external.py, MAGIC_NUMBER). tests/test_foreign_finders.py compares them with setuptools'. */
#if PY_VERSION_HEX >= 0x030d0000 && PY_VERSION_HEX < 0x030e0000
#define FIND_SPEC_CHECKSUM UINT64_C(0xaa8941f4a78d0f86)
#define LAMBDA_CHECKSUM UINT64_C(0x13af3e1a56d1cd58)
#elif PY_VERSION_HEX >= 0x030c0000 && PY_VERSION_HEX < 0x030d0000
#define FIND_SPEC_CHECKSUM UINT64_C(0x84f9c5d8efb95379)
#define LAMBDA_CHECKSUM UINT64_C(0xb5cb57bf715622d9)
#elif PY_VERSION_HEX >= 0x030b0000 && PY_VERSION_HEX < 0x030c0000
#define FIND_SPEC_CHECKSUM UINT64_C(0xf9c42b87e74acc63)
#define LAMBDA_CHECKSUM UINT64_C(0xae88b2215db48106)
#endif

#ifdef FIND_SPEC_CHECKSUM

#define FIND_SPEC_LOCALS 6

static bool
is_text(PyObject *object, const char *text)
{
    return PyUnicode_CheckExact(object) && PyUnicode_CompareWithASCIIString(object, text) == 0;
}

static bool
has_bytecode(PyCodeObject *code, uint64_t checksum)
{
    PyObject *bytecode = PyCode_GetCode(code);
    bool same = bytecode != NULL
                && pycds_checksum(PyBytes_AS_STRING(bytecode), (size_t)PyBytes_GET_SIZE(bytecode)) == checksum;
    Py_XDECREF(bytecode);
    return same;
}

/* Is it `lambda: None`? */
static bool
is_lambda_of_none(PyObject *object)
{
    PyCodeObject *code = (PyCodeObject *)object;
    return PyCode_Check(object) && code->co_argcount == 0 && code->co_kwonlyargcount == 0
           && !(code->co_flags & (CO_VARARGS | CO_VARKEYWORDS)) && PyTuple_GET_SIZE(code->co_consts) == 1
           && PyTuple_GET_ITEM(code->co_consts, 0) == Py_None && has_bytecode(code, LAMBDA_CHECKSUM);
}

/* Is it the code that the comment in the header tells of? */
static bool
is_known_code(PyCodeObject *code)
{
    static const char *const names[] = {"startswith", "format", "locals", "getattr"};
    static const Py_ssize_t name_count = sizeof(names) / sizeof(names[0]);
    PyObject *constants = code->co_consts;
    if (code->co_argcount != 4 || code->co_posonlyargcount != 0 || code->co_kwonlyargcount != 0
        || code->co_flags != (CO_OPTIMIZED | CO_NEWLOCALS) || code->co_nlocalsplus != FIND_SPEC_LOCALS
        || PyBytes_GET_SIZE(code->co_exceptiontable) != 0 || PyTuple_GET_SIZE(code->co_names) != name_count
        || PyTuple_GET_SIZE(constants) != 5) {
        return false;
    }
    for (Py_ssize_t i = 0; i < name_count; i++) {
        if (!is_text(PyTuple_GET_ITEM(code->co_names, i), names[i])) {
            return false;
        }
    }
    /* {fullname} is the second argument */
    return is_text(PyTuple_GET_ITEM(code->co_localsplusnames, 1), "fullname") && PyTuple_GET_ITEM(constants, 0) == Py_None
           && is_text(PyTuple_GET_ITEM(constants, 1), "test.") && is_text(PyTuple_GET_ITEM(constants, 2), "spec_for_{fullname}")
           && is_lambda_of_none(PyTuple_GET_ITEM(constants, 3))
           && PyTuple_CheckExact(PyTuple_GET_ITEM(constants, 4)) && PyTuple_GET_SIZE(PyTuple_GET_ITEM(constants, 4)) == 0
           && has_bytecode(code, FIND_SPEC_CHECKSUM);
}

/* Is what a function finds under the name of a builtin the interpreter's? */
static bool
is_plain_builtin(PyObject *function, const char *name)
{
    PyObject *globals = PyFunction_GET_GLOBALS(function), *builtins = ((PyFunctionObject *)function)->func_builtins;
    if (!PyDict_CheckExact(globals) || !PyDict_CheckExact(builtins) || PyDict_GetItemString(globals, name) != NULL) {
        return false;
    }
    PyObject *found = PyDict_GetItemString(builtins, name);
    PyObject *module = found == NULL || !PyCFunction_CheckExact(found) ? NULL : PyCFunction_GET_SELF(found);
    return module != NULL && PyModule_CheckExact(module) && PyModule_GetDict(module) == builtins
           && strcmp(((PyCFunctionObject *)found)->m_ml->ml_name, name) == 0;
}

/* The find_spec of a finder, if that is a plain function of its class, found in the ordinary way; borrowed. */
static PyObject *
find_spec_of(loader_state *state, PyObject *finder)
{
    PyTypeObject *type = Py_TYPE(finder);
    PyObject *function = type->tp_flags & Py_TPFLAGS_HEAPTYPE && type->tp_getattro == PyObject_GenericGetAttr
                             ? _PyType_Lookup(type, state->strings.find_spec)
                             : NULL;
    if (function == NULL || !PyFunction_Check(function)) {
        return NULL;
    }
    PyObject *method = PyObject_GenericGetAttr(finder, state->strings.find_spec); /* the finder's own comes first */
    bool same = method != NULL && PyMethod_Check(method) && PyMethod_GET_FUNCTION(method) == function;
    Py_XDECREF(method);
    return same ? function : NULL;
}

/* Has it no attribute "spec_for_" + name, of its own or of its class? */
static bool
has_no_method_for(PyObject *finder, PyObject *name)
{
    PyObject *method_name = PyUnicode_FromFormat("spec_for_%U", name), *method = NULL;
    bool none = method_name != NULL && _PyType_Lookup(Py_TYPE(finder), method_name) == NULL
                && native_optional_attribute(finder, method_name, &method) == 0;
    Py_XDECREF(method_name);
    Py_XDECREF(method);
    return none;
}

static bool
starts_with_test(PyObject *name)
{
    static const char start[] = "test.";
    for (Py_ssize_t i = 0; start[i] != '\0'; i++) {
        if (i == PyUnicode_GET_LENGTH(name) || PyUnicode_READ_CHAR(name, i) != (Py_UCS4)start[i]) {
            return false;
        }
    }
    return true;
}

bool
foreign_finder_declines(loader_state *state, PyObject *finder, PyObject *name, PyObject *path)
{
    PyObject *function = find_spec_of(state, finder), **known = &state->shortcuts.foreign_code;
    PyObject *code = function == NULL ? NULL : PyFunction_GET_CODE(function);
    if (code != NULL && code != *known && is_known_code((PyCodeObject *)code)) {
        Py_XSETREF(*known, Py_NewRef(code));
    }
    bool declines = code != NULL && code == *known
                    && ((path != Py_None && !starts_with_test(name))
                        || (is_plain_builtin(function, "getattr") && is_plain_builtin(function, "locals")
                            && has_no_method_for(finder, name)));
    PyErr_Clear();
    return declines;
}

#else

bool
foreign_finder_declines(loader_state *state, PyObject *finder, PyObject *name, PyObject *path)
{
    (void)state, (void)finder, (void)name, (void)path;
    return false;
}

#endif
