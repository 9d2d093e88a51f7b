#include "settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif
#include <unistd.h>

#include "cachedir.h"

static bool
is_set(const char *value)
{
    return value != NULL && value[0] != '\0' && strcmp(value, "0") != 0;
}

/* PYCDS_CACHE_DIR as an absolute path, relative ones seen from the current folder. A tilde is the home folder, also
   another user's: in a Dockerfile or a unit file no shell has expanded it (pip and platformdirs expand it, too). */
static bool
absolute(const char *path, char *out, size_t out_bytes)
{
    if (path[0] == '~' && (path[1] == '\0' || path[1] == '/')) {
        return cache_below_home(path + 1, out, out_bytes);
    }
    if (path[0] == '~') {
        return cache_below_home_of(path + 1, out, out_bytes);
    }
    if (path[0] == '/') {
        return (size_t)snprintf(out, out_bytes, "%s", path) < out_bytes;
    }
    if (getcwd(out, out_bytes) == NULL) {
        return false;
    }
    size_t length = strlen(out);
    return (size_t)snprintf(out + length, out_bytes - length, "/%s", path) < out_bytes - length;
}

/* The accelerations that a comma list names. Unknown names may be those of other releases: `status` tells them, and no
   more. */
static unsigned int
read_skipped(const char *list)
{
    static const struct {
        const char *name;
        enum acceleration acceleration;
    } known[] = {
        {"gc", ACCELERATION_GC},
        {"importlib", ACCELERATION_IMPORTLIB},
        {"frames", ACCELERATION_FRAMES},
        {"re", ACCELERATION_RE},
        {"classes", ACCELERATION_CLASSES},
        {"source", ACCELERATION_SOURCE},
        {"exit", ACCELERATION_EXIT},
    };
    unsigned int skipped = 0;
    while (list != NULL && *list != '\0') {
        size_t length = strcspn(list, ", ");
        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
            if (strlen(known[i].name) == length && strncmp(list, known[i].name, length) == 0) {
                skipped |= known[i].acceleration;
            }
        }
        list += length + (list[length] != '\0');
    }
    return skipped;
}

/* Equal ids are not enough: who starts a program with capabilities of its own (setcap) owns the cache that it would
   read. */
static bool
is_privileged(void)
{
#ifdef __linux__
    if (getauxval(AT_SECURE) != 0) {
        return true;
    }
#endif
    return getuid() != geteuid() || getgid() != getegid();
}

void
settings_read(struct settings *settings, bool ignore_environment)
{
    memset(settings, 0, sizeof(*settings));
    settings->disabled = is_set(getenv("PYCDS_DISABLE"));
    settings->preloaded = is_set(getenv("LD_PRELOAD")) || is_set(getenv("LD_AUDIT"));
    settings->privileged = is_privileged();
    const char *root = NULL;
    if (!ignore_environment && !settings->privileged) {
        settings->readonly = is_set(getenv("PYCDS_READONLY"));
        settings->log = is_set(getenv("PYCDS_LOG"));
        const char *validate = getenv("PYCDS_VALIDATE");
        settings->trust = validate != NULL && strcmp(validate, "trust") == 0;
        if (validate != NULL && validate[0] != '\0' && !settings->trust && strcmp(validate, "stat") != 0) {
            settings->unknown_validate = validate;
        }
        settings->skip = getenv("PYCDS_SKIP");
        settings->skipped = read_skipped(settings->skip);
        root = getenv("PYCDS_CACHE_DIR");
    }
    bool found = root != NULL && root[0] != '\0' ? absolute(root, settings->cache_root, sizeof(settings->cache_root))
                                                 : cache_root_here(settings->cache_root, sizeof(settings->cache_root));
    if (!found) {
        settings->cache_root[0] = '\0';
        settings->no_cache_root = root != NULL && root[0] != '\0' ? "PYCDS_CACHE_DIR is no path that could be followed"
                                                                 : "there is no home folder";
    }
    /* no trailing slashes: paths below are made by joining */
    size_t length = strlen(settings->cache_root);
    while (length > 1 && settings->cache_root[length - 1] == '/') {
        settings->cache_root[--length] = '\0';
    }
}
