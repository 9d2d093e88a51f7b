/* Starts the rebuilder (src/pycds_auto/rebuild.py) in the background when there is something to fold: at the end of a
   process, which also prints the summary that PYCDS_LOG asks for; and at the start of one that finds what others left,
   since servers are ended by signals, all of them, and would never have an archive. */
#ifndef PYCDS_REBUILDER_H
#define PYCDS_REBUILDER_H

#include "session.h"

/* Hands the session to the end of the process: it lives until then. Call once, in the main interpreter. */
void rebuilder_arm(struct session *session);

/* Starts the rebuilder now if misses were left that nobody folded for five minutes. For a complete session. */
void rebuilder_fold_left_over(const struct session *session);

/* Is this sys.executable the running program, and a Python by name? An embedding program (uwsgi, a frozen application)
   is something else, and may go on after the interpreter. Two system calls. */
bool executable_is_python(const char *executable);

#endif
