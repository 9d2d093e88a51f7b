#include "recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cachedir.h"

/* A file outside the standard library and site-packages is being worked on while it is younger than this: it does not
   cause a rebuild, or every run of an edited program would. Nor does a directory there: programs write beside
   themselves. */
#define SETTLED_SECONDS 600

/* root with a user's HOME (sudo): what root creates there the user could not write any more. */
static bool
root_in_foreign_home(const char *folder)
{
    if (geteuid() != 0) {
        return false;
    }
    char path[PYCDS_PATH_BYTES];
    struct stat status;
    snprintf(path, sizeof(path), "%s", folder);
    for (;;) {
        if (stat(path, &status) == 0) {
            return status.st_uid != 0;
        }
        char *slash = strrchr(path, '/');
        if (slash == NULL || slash == path) {
            return false;
        }
        *slash = '\0';
    }
}

/* Private, and the user's own whatever the program's umask says: a folder without permissions would stay one. */
static bool
make_folder(const char *path)
{
    if (mkdir(path, 0700) == 0) {
        struct stat status;
        return (lstat(path, &status) == 0 && (status.st_mode & 0700) == 0700) || chmod(path, 0700) == 0;
    }
    return errno == EEXIST;
}

const char *
recorder_make_folder(const struct session *session)
{
    if (root_in_foreign_home(session->folder)) {
        return "cache folder belongs to another user";
    }
    if (make_folder(session->folder)) {
        return NULL;
    }
    /* What it lies in may be new, too, at any depth, but for a home: one that isn't there isn't ours to make. */
    char above[PYCDS_PATH_BYTES], home[PYCDS_PATH_BYTES];
    bool has_home = cache_below_home("", home, sizeof(home));
    struct stat status;
    snprintf(above, sizeof(above), "%s", session->folder);
    for (char *slash = strchr(above + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if ((has_home && strcmp(above, home) == 0 && stat(above, &status) != 0) || !make_folder(above)) {
            return "cache folder cannot be created";
        }
        *slash = '/';
    }
    return make_folder(session->folder) ? NULL : "cache folder cannot be created";
}

static bool
in_library(const struct session *session, const char *path)
{
    if (strstr(path, "/site-packages") != NULL || strstr(path, "/dist-packages") != NULL) {
        return true;
    }
    size_t length = session->stdlib == NULL ? 0 : strlen(session->stdlib);
    return length > 0 && strncmp(path, session->stdlib, length) == 0 && (path[length] == '/' || path[length] == '\0');
}

static const char spool_is_full[] = "misses.spool is full";

/* Appends one line, unless the spool has more than `limit_bytes` then; NULL or a reason. */
static const char *
append(struct session *session, const char *line, size_t bytes, off_t limit_bytes)
{
    static const int flags = O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
        return "the size of files is limited here"; /* writing beyond the limit is a signal */
    }
    int fd = open(session->spool_path, flags);
    if (fd < 0 && errno == ENOENT) {
        const char *reason = recorder_make_folder(session);
        if (reason != NULL) {
            return reason;
        }
        fd = open(session->spool_path, flags | O_CREAT, 0600);
        session->made_spool = fd >= 0;
    }
    if (fd < 0) {
        return "misses.spool cannot be opened";
    }
    struct stat status;
    const char *reason = NULL;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_uid != geteuid()) {
        reason = "misses.spool is not a file of this user";
    }
    else if ((status.st_mode & 0600) != 0600 && fchmod(fd, 0600) != 0) { /* made under a strange umask, just now */
        reason = "misses.spool cannot be made this user's";
    }
    else if (status.st_size + (off_t)bytes > limit_bytes) {
        reason = spool_is_full;
    }
    else if (write(fd, line, bytes) != (ssize_t)bytes) {
        reason = "misses.spool cannot be written";
    }
    close(fd);
    return reason;
}

void
recorder_note(struct session *session, enum miss_kind kind, const char *path)
{
    if (!session->recording || strpbrk(path, "\n\r") != NULL) {
        return;
    }
    int saved_errno = errno;
    char line[PYCDS_PATH_BYTES + 32];
    int bytes = snprintf(
        line, sizeof(line), "%c %s %s\n", kind == MISS_DIRECTORY ? 'D' : 'M', session->variant, path);
    struct stat status;
    if (bytes > 0 && (size_t)bytes < sizeof(line) && stat(path, &status) == 0) {
        const struct module_record *known =
            kind == MISS_DIRECTORY || !session_serves(session) ? NULL
                                                               : image_module(&session->image, path, strlen(path));
        if (known == NULL || !(known->flags & MODULE_LEFT_OUT) || !module_matches(known, &status)) {
            const char *reason = append(session, line, (size_t)bytes, PYCDS_SPOOL_LIMIT);
            if (reason != NULL) {
                session->recording = false;
                session->record_reason = reason;
            }
            else if (
                in_library(session, path)
                || (kind != MISS_DIRECTORY && time(NULL) - status.st_mtime > SETTLED_SECONDS)) {
                if (kind == MISS_MODULE) {
                    session->worthy_modules++;
                }
                else if (kind == MISS_CHANGED || kind == MISS_AGED) {
                    session->worthy_changes++;
                }
                else {
                    session->worthy_directories++;
                }
            }
        }
    }
    errno = saved_errno;
}

void
recorder_note_result(struct session *session, enum miss_kind kind, bool doubtful, const char *key, size_t bytes)
{
    if (!session->recording) {
        return;
    }
    int saved_errno = errno;
    char *line = malloc(3 * bytes + 32);
    if (line != NULL) {
        static const char digits[] = "0123456789abcdef";
        size_t size = (size_t)snprintf(line, 32, "%c %s ", doubtful ? kind | 32 : kind, session->variant);
        for (size_t i = 0; i < bytes; i++) {
            unsigned char byte = (unsigned char)key[i];
            if (byte == '%' || byte < ' ') {
                line[size++] = '%';
                line[size++] = digits[byte >> 4];
                line[size++] = digits[byte & 15];
            }
            else {
                line[size++] = (char)byte;
            }
        }
        line[size++] = '\n';
        const char *reason = append(session, line, size, PYCDS_SPOOL_LIMIT / 2); /* the rest is for modules */
        if (reason == spool_is_full) {
            /* a shorter one may fit */
        }
        else if (reason != NULL) {
            session->recording = false;
            session->record_reason = reason;
        }
        else {
            session->worthy_results++;
        }
        free(line);
    }
    errno = saved_errno;
}
