/* The end of a process: what nobody would see freed is left to the operating system. A process that has imported much
   takes 15 to 25 ms to free tens of thousands of objects and to look for cycles among them.

   Why this shape
   - Py_FinalizeEx (Python/pylifecycle.c, 3.11 to 3.15) waits for threads, calls atexit's functions and flushes
     sys.stdout and sys.stderr; all that is as ever, and no code of a program's runs later, but what the end of an
     object runs. Then it collects garbage, and finalize_modules takes everything down, with a second collection. Each
     collection visits all objects three times, which is most of what an end costs; so the moment to look is before the
     first: the last flush. The method io.TextIOWrapper.flush is given another definition, as sources.c does with exec;
     its object stays.
   - Where sys.stderr isn't the interpreter's, or what could be seen may only be garbage, there is a second moment:
     finalize_modules begins by setting a few attributes of `sys` to None, `meta_path` among them. That frees our
     finder. Should someone else hold the list or the finder, nothing happens. 3.11 holds the list once more itself;
     there the moment is told by a weak reference to the last of these attributes, a function of site's.
   - Every object is looked at, the newest ones first: what a program itself left open decides at once. If the end of
     none of them can be seen, the collector forgets them all, as with gc.freeze(), and `sys.modules` is emptied while
     each module is kept: the collections and finalize_modules have nothing to do then. What follows (the dictionaries
     of sys and builtins, the interpreter, Py_AtExit's functions) is as ever.
   - Everything must be known to be harmless; at the first object that isn't, plain Python goes on. Known are classes
     made by class statements without __del__, whose bases are; types of CPython itself by a list of names, their code
     being in the interpreter or its lib-dynload folder; for some of these, each object by what it is (below).
   - Objects are found as the collector finds them, and by its tp_traverse what they refer to that it doesn't know. An
     object is in its lists, unless its type has nothing to do with it, or it is a tuple or dictionary of such objects;
     those are followed, and so are constants of code. What is hidden behind other objects can't be of a class with
     __del__, as there must be no such class whose instances the collector doesn't know.
   - Weak references with callbacks: the callbacks run in plain Python, so they must be the standard library's own,
     which only take an entry out of a container.
   - finalize_modules sets what the names of modules stand for to None, one by one: so all names must be exact str.
   - Who counts what is freed (another allocator, also one loaded in front of the system's) would see it missing.
   - Only in the program `python`: a host may start another interpreter afterwards, or look for leaks. */
#ifndef PYCDS_FINALIZATION_H
#define PYCDS_FINALIZATION_H

#include "state.h"

/* Asks what has to be known by then and costs system calls, and (3.11) takes a weak reference to
   sys.__interactivehook__. Called at each hit once it is worth it. Leaves no exception. */
void finalization_arm(loader_state *state);

/* Called when the finder is freed and the interpreter is being finalised. Leaves no exception. */
void finalization_shorten(loader_state *state);

/* From here on calls of what was replaced are only passed on. */
void finalization_clear(loader_state *state);

#endif
