/* Where the cache lies: platformdirs' user_cache_dir("pycds-auto"), computed in C because the start-up path imports
   nothing. tests/test_cachedir.py holds it against platformdirs itself. */
#ifndef PYCDS_CACHEDIR_H
#define PYCDS_CACHEDIR_H

#include <stdbool.h>
#include <stddef.h>

enum cache_platform { CACHE_LINUX, CACHE_DARWIN, CACHE_WINDOWS };

/* What the rule asks of its surroundings: an environment variable's value (NULL: not set), and the home folder that
   the password database gives for the real user (NULL: none). `context` is passed through. */
struct cache_surroundings {
    const char *(*variable)(void *context, const char *name);
    const char *(*home)(void *context);
    void *context;
};

/* Writes platformdirs' answer to `out` (terminated). False: there is none, or it does not fit.
   platformdirs 4.14: _xdg.py `xdg_dir` and `expand_user`, unix.py, macos.py, windows.py `user_cache_dir`. */
bool cache_root_for(
    enum cache_platform platform, const struct cache_surroundings *surroundings, char *out, size_t out_bytes);

/* The same for this process. */
bool cache_root_here(char *out, size_t out_bytes);

/* os.path.expanduser("~" + tail) for this process; tail is empty or begins with a slash. False: there is no home. */
bool cache_below_home(const char *tail, char *out, size_t out_bytes);

/* The same for another user: tail begins with the name. False: there is no such user, or home: we make none. */
bool cache_below_home_of(const char *tail, char *out, size_t out_bytes);

#endif
