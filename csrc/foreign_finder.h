/* Finders of the program's that stand before ours in sys.meta_path, of which it is known what they decline, or between
   ours and PathFinder, of which it is known what they leave to that.

   With one of them in front, importlib._bootstrap._find_spec asks each finder in turn, in Python: 10 us a module, a
   twentieth of an import. One stands there in nearly every environment: setuptools puts _distutils_hack's
   DistutilsMetaFinder first (distutils-precedence.pth), to answer for `distutils` and a few others; virtualenv and uv
   put _virtualenv's _Finder there, for two modules. The AWS CLI puts its own directly before PathFinder, whose answer
   it gives for all but two names: behind ours, so that ours could say nothing at all.

   Why this shape
   - Calling it from C isn't the same: what it runs would see one frame less. Not calling it is the same where it is
     certain that it would have returned None and done nothing else.
   - What it does is in its code object: bytecode, constants and names. That is compared with those whose meaning is
     known. Another code object, a subclass with a find_spec of its own, an attribute that answers for the name, other
     functions in the place of builtins that are called: then it is asked, by importlib, as ever.
   - The comparison is by checksums (pycds_checksum), not with a copy: code of others isn't ours to carry. */
#ifndef PYCDS_FOREIGN_FINDER_H
#define PYCDS_FOREIGN_FINDER_H

#include "state.h"

/* Would `finder`.find_spec(name, path, None) return None and do nothing else? `name` is exactly a str. False when in
   doubt. Leaves no exception; runs nothing of the program's. */
bool foreign_finder_declines(loader_state *state, PyObject *finder, PyObject *name, PyObject *path);

/* Would it return what PathFinder.find_spec(name, path, None) returns, and do nothing else? For finders that stand
   between ours and PathFinder. */
bool foreign_finder_delegates(loader_state *state, PyObject *finder, PyObject *name);

#endif
