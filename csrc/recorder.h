/* The recorder: appends what the image did not have to the spool, the moment it happens, so that a killed process's
   misses are not lost. Bounded, and it gives up at the first failure. */
#ifndef PYCDS_RECORDER_H
#define PYCDS_RECORDER_H

#include "session.h"

enum miss_kind {
    MISS_MODULE = 'M', /* a source file that is not in the image */
    MISS_CHANGED = 'C', /* a source file that is in the image, but has changed */
    MISS_AGED = 'A', /* a hit, of a module that is to be dropped if nobody uses it */
    MISS_DIRECTORY = 'D', /* a directory whose listing is not in the image, or not proved any more */
    MISS_PATTERN = 'R', /* a regular expression (patterns.h); in place of the path its key, with percent escapes */
    MISS_SOURCE = 'S', /* a source text (sources.h), likewise */
};

/* Spool lines beyond this many bytes are not written: a rebuilder that cannot run must not cost disk. */
#define PYCDS_SPOOL_LIMIT (2 * 1024 * 1024)

/* Notes one miss. `path` is absolute. Leaves errno alone; never raises. Needs the interpreter's lock (or the like):
   the session is not locked here. */
void recorder_note(struct session *session, enum miss_kind kind, const char *path);

/* The same for the key of a result (results.h). `doubtful`: it may never be asked for again; the letter is a small one.
   */
void recorder_note_result(
    struct session *session, enum miss_kind kind, bool doubtful, const char *key, size_t bytes);

/* Makes sure that the sub-folder exists, private to this user. Returns NULL or a reason. */
const char *recorder_make_folder(const struct session *session);

#endif
