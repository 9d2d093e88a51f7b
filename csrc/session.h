/* What one process knows about its cache: settings, places, the mapped image, counts. Plain C data without Python
   objects, so that the end of the process can use it after the interpreter is gone. */
#ifndef PYCDS_SESSION_H
#define PYCDS_SESSION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "image.h"
#include "settings.h"

#define PYCDS_PATH_BYTES 4608 /* the longest path we handle; longer ones are left to plain Python */

struct session {
    struct settings settings;

    /* places; "" where they are not known */
    char folder[PYCDS_PATH_BYTES];
    char image_path[PYCDS_PATH_BYTES];
    char spool_path[PYCDS_PATH_BYTES];
    char lock_path[PYCDS_PATH_BYTES];
    char state_path[PYCDS_PATH_BYTES];
    char variant[8]; /* what options change in code: optimisation level, "n" for no_debug_ranges */
    char *identity; /* owned */
    char cached_suffix[80]; /* what pyc files are called behind the stem: ".cpython-311.opt-1.pyc" */

    /* what the rebuilder is started with; owned, NULL where unknown */
    char *executable; /* sys.executable */
    char *prefix; /* sys.prefix */
    char *stdlib; /* folder of the standard library */
    char *package_parent; /* folder that holds the package pycds_auto */

    struct image image; /* bytes is NULL while there is none */
    char reason[256]; /* why there is no image in use; "" if there is */

    bool recording;
    uint64_t bypassed; /* look-ups that were left to plain Python since it would have shown, and why (static text) */
    const char *bypass_reason;
    bool end_shortened; /* the process's objects were left to the system (finalization.h) */
    const char *record_reason; /* why not recording; NULL if it is, or never was asked to */
    bool made_spool; /* there was none before this process */

    pid_t pid; /* of the process that was activated: a fork's child is another */

    uint64_t hits, misses, stale;
    uint64_t pattern_hits; /* regular expressions from the image */
    uint64_t source_hits; /* code of source texts from the image */
    int64_t load_ns; /* time spent in making code objects of hits; counted with PYCDS_LOG only */
    /* what a rebuild would bring: misses of settled files, modules that changed, directories that could not be
       proved */
    uint64_t worthy_modules, worthy_changes, worthy_directories, worthy_results;
};

/* Says why there is no image in use, and stops using it (the mapping stays: it may be in use right now). */
void session_set_reason(struct session *session, const char *reason);

/* Is an image mapped and in use? */
static inline bool
session_serves(const struct session *session)
{
    return session->image.bytes != NULL && session->reason[0] == '\0';
}

/* Fills the places in the cache root for this environment. `cache_tag`, `soabi`, `build`: of the interpreter; the build
   too, or two builds that share a prefix would replace each other's image for ever. False: does not fit. */
bool session_locate(struct session *session, const char *cache_tag, const char *soabi, const char *build);

/* Checks the folder and maps the image; sets `reason`, `recording`, `record_reason`. */
void session_open(struct session *session);

/* Frees what the session owns, and the session. */
void session_free(struct session *session);

#endif
