/* What takes the place of a function of the library that was written in Python.

   Not a built-in function: of a call of one, the interpreter tells profilers (Python/ceval.c, C_TRACE, 3.11;
   Python/legacy_tracing.c, 3.12 to 3.15) before ours could see that somebody looks on and call what it stands in
   for. */
#ifndef PYCDS_STAND_IN_H
#define PYCDS_STAND_IN_H

#include "state.h"

struct stand_in_definition {
    const char *module, *name; /* its __module__, and both __name__ and __qualname__ */
    const char *signature; /* its __text_signature__, which inspect.signature reads */
    PyObject *(*call)(
        loader_state *state, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords); /* as METH_FASTCALL */
};

/* A new one; `definition` has to live as long. NULL with an exception. */
PyObject *stand_in_new(loader_state *state, const struct stand_in_definition *definition);

/* Is it the one of that definition, of this module? */
bool stand_in_is(loader_state *state, PyObject *object, const struct stand_in_definition *definition);

#endif
