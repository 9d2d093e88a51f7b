/* What the user set: environment variables and interpreter options, read once. */
#ifndef PYCDS_SETTINGS_H
#define PYCDS_SETTINGS_H

#include <stdbool.h>

enum acceleration {
    ACCELERATION_GC = 1, /* fewer automatic collections during imports */
    ACCELERATION_IMPORTLIB = 2, /* importlib's helpers in C */
    ACCELERATION_FRAMES = 4, /* a chunk for frames is kept */
    ACCELERATION_RE = 8, /* compiled regular expressions */
    ACCELERATION_SOURCE = 16, /* compiled source texts */
    ACCELERATION_CLASSES = 32, /* classes made without looking up all special methods */
    ACCELERATION_EXIT = 64, /* objects that nobody would see freed are left to the system */
};

struct settings {
    bool disabled; /* PYCDS_DISABLE: honoured always */
    bool readonly; /* PYCDS_READONLY: use, never write or spawn */
    bool trust; /* PYCDS_VALIDATE=trust: no file checks */
    bool log; /* PYCDS_LOG=1: a summary on stderr at exit */
    unsigned int skipped; /* PYCDS_SKIP: accelerations to leave out, bits of enum acceleration */
    bool preloaded; /* LD_PRELOAD or LD_AUDIT: libraries that may look on */
    bool privileged; /* the program may more than who started it: set-uid, set-gid, or a file's capabilities */
    const char *unknown_validate; /* PYCDS_VALIDATE with a value that means nothing (then as "stat"); or NULL */
    const char *skip; /* PYCDS_SKIP, for status, which tells what in it means nothing; or NULL */
    char cache_root[4096]; /* "" if there is none */
    const char *no_cache_root; /* why; NULL: there is one */
};

/* Reads the variables. `ignore_environment`: -E or -I; like them, a privileged program leaves only
   PYCDS_DISABLE in force. Never fails. */
void settings_read(struct settings *settings, bool ignore_environment);

#endif
