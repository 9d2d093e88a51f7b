/* Source texts: code objects of the strings that imports hand to compile, exec and eval are kept in the image
   (dataclasses, namedtuple, attrs, forward references, ...), and a program that hands in the same string gets its code
   without parsing and compiling it (PYCDS_SKIP=source: not).

   Why this shape
   - The code is a pure function of text, file name, mode, flags (the caller's `from __future__` included) and
     optimisation; the image is of one interpreter. All of that is the key. Each call makes a new code object, by
     marshal, which can be freed like any; its file name is the very object that was given, or from 3.13 on the interned
     one.
   - Programs see no other function: the three function objects of `builtins` stay, and get another C function behind
     them (PyCFunctionObject.m_ml). CPython 3.11 to 3.15 reads m_ml->ml_meth at each call (Objects/methodobject.c, the
     vectorcall functions; Python/ceval.c and bytecodes.c, CALL_BUILTIN_FAST and CALL_BUILTIN_FAST_WITH_KEYWORDS). It is
     done at the start, and never undone: hash(exec) is that of the C function's address. So what stands there is C data
     of the process, with no objects in it, and without a module it only passes calls on.
   - exec and eval of a text become the original exec and eval of its code object, with the same other arguments: name
     spaces, __builtins__ and errors are theirs. The one thing that they do for a text and not for code, to take note of
     a KeyboardInterrupt (Python/pythonrun.c, run_eval_code_obj), is made up for.
   - Only while some import is under way, in whatever thread: importlib._bootstrap._module_locks isn't empty then. That
     is the first question, so that otherwise a call costs nothing. Where an import never returns, a row of misses ends
     it until the next module.
   - Left to the original function, in the same call: all but an exact str and the commonest other arguments; texts that
     are wrong or warn, and the few whose code isn't the same each time (sources.py); everything while something looks
     on.
   - What entries are, and which texts are recorded: results.h. */
#ifndef PYCDS_SOURCES_H
#define PYCDS_SOURCES_H

#include "state.h"

/* Puts ours behind the built-in functions. At the start of the main interpreter, before a program can have used them as
   keys. Leaves no exception. */
void sources_install(loader_state *state);

/* The code object in an entry's payload, as it is before it gets its file's name. NULL with an exception, or without
   one: it is of no use here. */
PyObject *sources_code_in(const char *payload, size_t size);

void sources_clear(loader_state *state);
int sources_traverse(loader_state *state, visitproc visit, void *arg);

#endif
