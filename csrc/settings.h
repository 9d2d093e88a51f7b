/* What the user set: environment variables and interpreter options, read once. */
#ifndef PYCDS_SETTINGS_H
#define PYCDS_SETTINGS_H

#include <stdbool.h>

struct settings {
    bool disabled; /* PYCDS_DISABLE: honoured always */
    bool readonly; /* PYCDS_READONLY: use, never write or spawn */
    bool trust; /* PYCDS_VALIDATE=trust: no file checks */
    bool log; /* PYCDS_LOG=1: a summary on stderr at exit */
    bool ids_differ; /* real and effective user or group: a setuid program */
    const char *unknown_validate; /* PYCDS_VALIDATE with a value that means nothing (then as "stat"); or NULL */
    char cache_root[4096]; /* "" if there is none */
};

/* Reads the variables. `ignore_environment`: -E or -I; like them, differing real and effective ids leave only
   PYCDS_DISABLE in force. Never fails. */
void settings_read(struct settings *settings, bool ignore_environment);

#endif
