/* Which interpreter and environment an image belongs to. */
#ifndef PYCDS_IDENTITY_H
#define PYCDS_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>

/* Writes the build id of the object that holds the interpreter (the executable, or libpython) as hexadecimal digits;
   without one, "stat:" with size and mtime of that file. A build id lies in memory: no system call, and it survives
   container layers that change an mtime. False: neither could be had. */
bool interpreter_build(char *out, size_t out_bytes);

#endif
