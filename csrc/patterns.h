/* Regular expressions: what re._compiler.compile computes from a pattern and its flags is kept in the image, and a
   program that compiles the same pattern gets it through _sre.compile without parsing (PYCDS_SKIP=re: not).

   Why this shape
   - The result is a pure function of pattern, flags and the files of the package `re`. It is used only while those
     files are hits, that is, the ones that the rebuilder computed with, and only while nobody has put anything else
     into their namespaces: each call compares all globals of re._compiler and re._parser with what they were.
   - re._compiler.compile is replaced, nothing else. Above it, re.compile, re._compile and its cache, re.purge and all
     the functions that take a pattern run as ever; below it, _sre.compile makes the pattern object.
   - Left to the plain function, in the end of the same call: anything but an exact str or bytes with an exact int;
     DEBUG, which prints; LOCALE and TEMPLATE; patterns that are wrong or warn, and such as let the parser do more than
     compute (\N{...} imports unicodedata); and every pattern while something looks on.
   - What entries are, and which patterns are recorded: results.h. */
#ifndef PYCDS_PATTERNS_H
#define PYCDS_PATTERNS_H

#include "state.h"

/* Puts ours in place once the package `re` has been imported; until then, and afterwards, this is a look into
   sys.modules, or less. Leaves no exception. */
void patterns_install(loader_state *state);

/* At activation: if `re` is there already (another .pth file's doing, or site's, for .start files), it
   can't be the image's, and patterns are left alone in this process: what could never be served isn't to be recorded
   either. */
void patterns_prepare(loader_state *state);

/* Until the next patterns_install: the plain function back in its place, for something that looks on. */
void patterns_step_aside(loader_state *state);

void patterns_clear(loader_state *state);
int patterns_traverse(loader_state *state, visitproc visit, void *arg);

#endif
