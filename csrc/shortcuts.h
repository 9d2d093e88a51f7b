/* importlib's own cost, the part that can be saved without a trace: four private helpers of importlib._bootstrap are
   replaced, from the third hit on, by functions of the same name that do the same in C.

   What costs is not the five Python functions that are on the stack while a module's body runs (_find_and_load,
   _find_and_load_unlocked, _load_unlocked, exec_module, _call_with_frames_removed): a few microseconds. Those stay, so
   tracebacks, sys._getframe, warnings' stack levels, the recursion limit and -X importtime are as ever, and there is
   nothing about circular imports, import hooks or modules that replace themselves to be imitated. It is
   - _ModuleLockManager: 4 to 9 microseconds to make a lock, with its weak reference and callback, that nobody ever
     waits for. Ours is an entry in _module_locks that makes the real _ModuleLock when somebody asks for it; from 3.15
     on _get_module_lock gives it to _find_and_load;
   - _init_module_attrs: 2 to 6, mostly for exceptions about attributes that a new module can't have yet;
   - _find_spec: 1 to 3, for finders of built-in and frozen modules, which say no; 10 where setuptools' finder stands in
     front (foreign_finder.h); and 100 for a module that nobody has, which PathFinder looks for a second time;
   - _handle_fromlist: 1, for each statement "from package import name", mostly to see that the name is there.
   Each handles the ordinary case, of a module that ours is the loader of, and calls what it replaced for anything else.
   While something looks on (import_is_observed), or something that importlib calls was replaced
   (importlib_is_untouched), all of them are back in their places. */
#ifndef PYCDS_SHORTCUTS_H
#define PYCDS_SHORTCUTS_H

#include "state.h"

/* Puts them in place, once, unless a program or another release of CPython has others than those that ours stand in
   for. Leaves no exception. */
void shortcuts_install(loader_state *state);

/* Is ModuleSpec what it was, so that one can be made attribute by attribute? */
bool shortcuts_know_specs(const loader_state *state);

/* Gives a copy of a module's dictionary what ours stand in for, if they are in that module: several imports of site's
   put them in place before the guard takes note of what is there. RET_ERROR with an exception: no memory. */
int shortcuts_undo(loader_state *state, PyObject *module, PyObject *copy);

/* Is it one of ours, in the place of what it stands in for? */
bool shortcuts_put_in_place(loader_state *state, PyObject *value);

/* Puts back what was replaced, and forgets it. */
void shortcuts_clear(loader_state *state);
int shortcuts_traverse(loader_state *state, visitproc visit, void *arg);

#endif
