#include "cachedir.h"

#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define APP_NAME "pycds-auto"

/* snprintf that tells whether all of it fitted. */
#define PRINT_FITS(out, out_bytes, ...) ((size_t)snprintf((out), (out_bytes), __VA_ARGS__) < (out_bytes))

/* os.path.join(base, name): a slash only where there is none. */
static bool
join(char *out, size_t out_bytes, const char *base, const char *name)
{
    size_t length = strlen(base);
    return PRINT_FITS(out, out_bytes, "%s%s%s", base, length && base[length - 1] == '/' ? "" : "/", name);
}

/* platformdirs' expand_user("~" + tail): HOME if it is absolute, else the password database. A HOME that is unset goes
   through os.path.expanduser, which asks the password database too. Trailing slashes of the home go, as there. */
static bool
expand_user(const struct cache_surroundings *surroundings, const char *tail, char *out, size_t out_bytes)
{
    const char *home = surroundings->variable(surroundings->context, "HOME");
    if (home == NULL || home[0] != '/') {
        home = surroundings->home(surroundings->context);
    }
    if (home == NULL) {
        return false;
    }
    size_t length = strlen(home);
    while (length && home[length - 1] == '/') {
        length--;
    }
    return PRINT_FITS(out, out_bytes, "%.*s%s", (int)length, home, tail) && out[0] == '/';
}

/* %LOCALAPPDATA%\APP\APP\Cache; os.path.normpath there turns slashes round and drops trailing ones. */
static bool
windows_root(const struct cache_surroundings *surroundings, char *out, size_t out_bytes)
{
    const char *local = surroundings->variable(surroundings->context, "LOCALAPPDATA");
    if (local == NULL || local[0] == '\0') {
        return false;
    }
    size_t length = strlen(local);
    while (length > 3 && (local[length - 1] == '\\' || local[length - 1] == '/')) {
        length--;
    }
    const char *separator = local[length - 1] == '\\' || local[length - 1] == '/' ? "" : "\\"; /* "D:\" */
    if (!PRINT_FITS(
            out, out_bytes, "%.*s%s" APP_NAME "\\" APP_NAME "\\Cache", (int)length, local, separator)) {
        return false;
    }
    for (char *at = out; *at; at++) {
        *at = *at == '/' ? '\\' : *at;
    }
    return true;
}

bool
cache_root_for(enum cache_platform platform, const struct cache_surroundings *surroundings, char *out, size_t out_bytes)
{
    if (platform == CACHE_WINDOWS) {
        return windows_root(surroundings, out, out_bytes);
    }
    const char *xdg = surroundings->variable(surroundings->context, "XDG_CACHE_HOME");
    if (xdg != NULL && xdg[0] == '/') {
        return join(out, out_bytes, xdg, APP_NAME);
    }
    char base[4096];
    return expand_user(surroundings, platform == CACHE_DARWIN ? "/Library/Caches" : "/.cache", base, sizeof(base))
           && join(out, out_bytes, base, APP_NAME);
}

static const char *
process_variable(void *context, const char *name)
{
    (void)context;
    return getenv(name);
}

static const char *
process_home(void *context)
{
    (void)context;
    /* Reached only without a usable HOME: loading the name service is not for every start. */
    struct passwd *entry = getpwuid(getuid());
    return entry == NULL ? NULL : entry->pw_dir;
}

static const struct cache_surroundings here = {process_variable, process_home, NULL};

bool
cache_below_home(const char *tail, char *out, size_t out_bytes)
{
    return expand_user(&here, tail, out, out_bytes);
}

bool
cache_below_home_of(const char *tail, char *out, size_t out_bytes)
{
    char name[256];
    size_t length = strcspn(tail, "/");
    if (!PRINT_FITS(name, sizeof(name), "%.*s", (int)length, tail)) {
        return false;
    }
    struct passwd *entry = getpwnam(name);
    struct stat status;
    return entry != NULL && entry->pw_dir != NULL && entry->pw_dir[0] == '/' && stat(entry->pw_dir, &status) == 0
           && PRINT_FITS(out, out_bytes, "%s%s", entry->pw_dir, tail + length);
}

bool
cache_root_here(char *out, size_t out_bytes)
{
#ifdef __APPLE__
    return cache_root_for(CACHE_DARWIN, &here, out, out_bytes);
#else
    return cache_root_for(CACHE_LINUX, &here, out, out_bytes);
#endif
}
