/* The end of a process: starts the rebuilder (src/pycds_auto/rebuild.py) in the background when there is something to
   fold, and prints the summary that PYCDS_LOG asks for. */
#ifndef PYCDS_REBUILDER_H
#define PYCDS_REBUILDER_H

#include "session.h"

/* Hands the session to the end of the process: it lives until then. Call once, in the main interpreter. */
void rebuilder_arm(struct session *session);

/* Is this sys.executable the running program, and a Python by name? An embedding program (uwsgi, a frozen application)
   is something else, and may go on after the interpreter. Two system calls. */
bool executable_is_python(const char *executable);

#endif
