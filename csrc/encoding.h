/* What Python code sees of the native encoding: for the rebuilder, the command line and tests. Methods of the
   module. */
#ifndef PYCDS_ENCODING_H
#define PYCDS_ENCODING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern const char native_reason_doc[], native_encode_doc[], native_verify_doc[], native_decode_doc[];

PyObject *encoding_reason(PyObject *module, PyObject *unused);
PyObject *encoding_encode(PyObject *module, PyObject *arguments);
PyObject *encoding_verify(PyObject *module, PyObject *arguments);
PyObject *encoding_decode(PyObject *module, PyObject *arguments);

#endif
