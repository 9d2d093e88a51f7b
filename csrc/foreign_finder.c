#include "foreign_finder.h"

#include <string.h>

#include "checksum.h"
#include "native_layout.h"

#if FOREIGN_FINDERS_KNOWN

/* Whose find_spec it is. */
enum finder_kind {
    FINDER_UNKNOWN,
    FINDER_OF_SETUPTOOLS, /* _distutils_hack.DistutilsMetaFinder */
    FINDER_OF_VIRTUALENV, /* _virtualenv._Finder */
    FINDER_OF_AWSCLI, /* awscli.TopLevelImportAliasFinder */
};

/* Fingerprints of their code objects (take_fingerprint), of 3.11 to 3.15: the bytecode of a minor release doesn't
   change (Lib/importlib/_bootstrap_external.py, MAGIC_NUMBER). tests/test_foreign_finders.py says what they are of. */
static const struct {
    enum finder_kind kind;
    uint64_t fingerprints[5];
} known_code[] = {
    {FINDER_OF_SETUPTOOLS, /* setuptools 65 to 84 */
     {UINT64_C(0xa2202ce9b2500a68), UINT64_C(0x6f82dc3d46a91a0d), UINT64_C(0x9918e2572c35f818),
      UINT64_C(0xb634c1691f0d7a89), UINT64_C(0x764a3a306fc3ddee)}},
    {FINDER_OF_VIRTUALENV, /* virtualenv 20.26 to 20.34 */
     {UINT64_C(0xb5d4999566ec9183), UINT64_C(0x4e0303194ee0db78), UINT64_C(0x7e05681d0caa94aa),
      UINT64_C(0x6643cf20880c59ed), UINT64_C(0x9d67acf57fc5210f)}},
    {FINDER_OF_VIRTUALENV, /* virtualenv 20.35 to 21.2; uv */
     {UINT64_C(0x64a2cb87431e4bb2), UINT64_C(0xab647aa49e593dab), UINT64_C(0xb18498dc382e0c4e),
      UINT64_C(0xeace870d270ec78e), UINT64_C(0x5b061a4d54d2519c)}},
    {FINDER_OF_AWSCLI, /* awscli 1.46 */
     {UINT64_C(0x96ea7f97e54ad71a), UINT64_C(0x4f452d65778252f2), UINT64_C(0x8aaf1465be0aa503),
      UINT64_C(0xb9fdcf5913d9b5fe), UINT64_C(0x2602240bba09aa4d)}},
};

/* Adds bytes to a fingerprint, at whose end their number keeps them apart from the next ones. */
static void
add_bytes(uint64_t *fingerprint, const void *bytes, size_t size)
{
    const uint64_t parts[] = {*fingerprint, pycds_checksum(bytes, size), size};
    *fingerprint = pycds_checksum(parts, sizeof(parts));
}

static bool
add_text(uint64_t *fingerprint, PyObject *text)
{
    Py_ssize_t size;
    const char *bytes = PyUnicode_CheckExact(text) ? PyUnicode_AsUTF8AndSize(text, &size) : NULL;
    if (bytes != NULL) {
        add_bytes(fingerprint, bytes, (size_t)size);
    }
    return bytes != NULL;
}

static bool take_fingerprint(uint64_t *fingerprint, PyCodeObject *code);

/* False for a constant of another kind than these functions have. */
static bool
add_constant(uint64_t *fingerprint, PyObject *constant)
{
    if (PyUnicode_CheckExact(constant)) {
        add_bytes(fingerprint, "text", 4);
        return add_text(fingerprint, constant);
    }
    if (PyCode_Check(constant)) {
        add_bytes(fingerprint, "code", 4);
        return take_fingerprint(fingerprint, (PyCodeObject *)constant);
    }
    if (PyTuple_CheckExact(constant)) {
        add_bytes(fingerprint, "tuple", 5);
        bool added = true;
        for (Py_ssize_t i = 0; added && i < PyTuple_GET_SIZE(constant); i++) {
            added = add_constant(fingerprint, PyTuple_GET_ITEM(constant, i));
        }
        add_bytes(fingerprint, "end", 3);
        return added;
    }
    const char *name = constant == Py_None    ? "None"
                       : constant == Py_True  ? "True"
                       : constant == Py_False ? "False"
                                              : NULL;
    if (name != NULL) {
        add_bytes(fingerprint, name, strlen(name));
        return true;
    }
    long number = PyLong_CheckExact(constant) ? PyLong_AsLong(constant) : -1;
    add_bytes(fingerprint, &number, sizeof(number));
    return number >= 0;
}

/* Adds all that decides what a code object does: bytecode as PyCode_GetCode has it, without what the interpreter
   specialised; constants, names, and how arguments come to it. */
static bool
take_fingerprint(uint64_t *fingerprint, PyCodeObject *code)
{
    const int numbers[] = {
        code->co_argcount, code->co_posonlyargcount, code->co_kwonlyargcount,
        code->co_flags & (CO_VARARGS | CO_VARKEYWORDS | CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR)};
    PyObject *bytecode = PyCode_GetCode(code);
    if (bytecode == NULL) {
        return false;
    }
    add_bytes(fingerprint, PyBytes_AS_STRING(bytecode), (size_t)PyBytes_GET_SIZE(bytecode));
    Py_DECREF(bytecode);
    add_bytes(
        fingerprint, PyBytes_AS_STRING(code->co_exceptiontable), (size_t)PyBytes_GET_SIZE(code->co_exceptiontable));
    add_bytes(fingerprint, numbers, sizeof(numbers));
    return add_constant(fingerprint, code->co_consts) && add_constant(fingerprint, code->co_names)
           && add_constant(fingerprint, code->co_localsplusnames);
}

static enum finder_kind
kind_of(PyCodeObject *code)
{
    uint64_t fingerprint = 0;
    bool taken = PyTuple_GET_SIZE(code->co_names) < 64 && take_fingerprint(&fingerprint, code);
    for (size_t i = 0; taken && i < sizeof(known_code) / sizeof(known_code[0]); i++) {
        if (known_code[i].fingerprints[FOREIGN_FINDER_RELEASE] == fingerprint) {
            return known_code[i].kind;
        }
    }
    return FINDER_UNKNOWN;
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

/* None for all but top-level modules and those of `test`; for these, what the attribute spec_for_NAME says, if there is
   one. */
static bool
declines_as_of_setuptools(PyObject *finder, PyObject *function, PyObject *name, PyObject *path)
{
    return (path != Py_None && !starts_with_test(name))
           || (is_plain_builtin(function, "getattr") && is_plain_builtin(function, "locals")
               && has_no_method_for(finder, name));
}

/* None for all names but those in a tuple, a global of its module. */
static bool
declines_as_of_virtualenv(PyObject *function, PyObject *name)
{
    PyObject *globals = PyFunction_GET_GLOBALS(function);
    PyObject *names = PyDict_CheckExact(globals) ? PyDict_GetItemString(globals, "_DISTUTILS_PATCH") : NULL;
    bool declines = names != NULL && PyTuple_CheckExact(names);
    for (Py_ssize_t i = 0; declines && i < PyTuple_GET_SIZE(names); i++) {
        PyObject *other = PyTuple_GET_ITEM(names, i);
        declines = PyUnicode_CheckExact(other) && PyUnicode_Compare(other, name) != 0;
    }
    return declines;
}

/* An attribute of a class, found in the ordinary way; borrowed. */
static PyObject *
attribute_of_type(PyTypeObject *type, const char *name)
{
    PyObject *text = PyUnicode_InternFromString(name);
    PyObject *found = text == NULL ? NULL : _PyType_Lookup(type, text);
    Py_XDECREF(text);
    return found;
}

/* PathFinder's answer for all names but those in a list, an attribute of its class. */
static bool
delegates_as_of_awscli(loader_state *state, PyObject *finder, PyObject *name)
{
    PyTypeObject *type = Py_TYPE(finder);
    PyObject *names = attribute_of_type(type, "_PACKAGES");
    PyObject *own_names = names == NULL ? NULL : PyObject_GetAttrString(finder, "_PACKAGES");
    bool delegates = own_names == names && names != NULL && PyList_CheckExact(names);
    for (Py_ssize_t i = 0; delegates && i < PyList_GET_SIZE(names); i++) {
        PyObject *other = PyList_GET_ITEM(names, i);
        delegates = PyUnicode_CheckExact(other) && PyUnicode_Compare(other, name) != 0;
    }
    Py_XDECREF(own_names);
    if (delegates && attribute_of_type(type, "_underlying_finder") == NULL) {
        PyObject *underlying = PyObject_GetAttrString(finder, "_underlying_finder");
        delegates = underlying == state->path_finder;
        Py_XDECREF(underlying);
        return delegates;
    }
    return false;
}

/* What is known of a finder's find_spec, *function (borrowed). */
static enum finder_kind
kind_of_finder(loader_state *state, PyObject *finder, PyObject **function)
{
    *function = find_spec_of(state, finder);
    PyObject *code = *function == NULL ? NULL : PyFunction_GET_CODE(*function);
    if (code == NULL || native_code_is_monitored((PyCodeObject *)code)) {
        return FINDER_UNKNOWN;
    }
    struct foreign_code *all = state->shortcuts.foreign, *known = NULL;
    for (int i = 0; i < FOREIGN_CODES && (known == NULL || known->address != code); i++) {
        if (all[i].address == code || (known == NULL && all[i].address == NULL)) {
            known = &all[i];
        }
    }
    if (known == NULL) {
        known = &all[((uintptr_t)code >> 4) % FOREIGN_CODES];
    }
    if (known->address != code) {
        known->address = code;
        known->kind = kind_of((PyCodeObject *)code);
        Py_XSETREF(known->code, known->kind != FINDER_UNKNOWN ? Py_NewRef(code) : NULL);
    }
    return known->kind;
}

bool
foreign_finder_declines(loader_state *state, PyObject *finder, PyObject *name, PyObject *path)
{
    PyObject *function;
    enum finder_kind kind = kind_of_finder(state, finder, &function);
    bool declines = kind == FINDER_OF_SETUPTOOLS   ? declines_as_of_setuptools(finder, function, name, path)
                    : kind == FINDER_OF_VIRTUALENV ? declines_as_of_virtualenv(function, name)
                                                   : false;
    PyErr_Clear();
    return declines;
}

bool
foreign_finder_delegates(loader_state *state, PyObject *finder, PyObject *name)
{
    PyObject *function;
    bool delegates = kind_of_finder(state, finder, &function) == FINDER_OF_AWSCLI
                     && delegates_as_of_awscli(state, finder, name);
    PyErr_Clear();
    return delegates;
}

#else

bool
foreign_finder_declines(loader_state *state, PyObject *finder, PyObject *name, PyObject *path)
{
    (void)state, (void)finder, (void)name, (void)path;
    return false;
}

bool
foreign_finder_delegates(loader_state *state, PyObject *finder, PyObject *name)
{
    (void)state, (void)finder, (void)name;
    return false;
}

#endif
