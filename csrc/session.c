#include "session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checksum.h"

#define PRINT_FITS(out, ...) ((size_t)snprintf((out), sizeof(out), __VA_ARGS__) < sizeof(out))

void
session_set_reason(struct session *session, const char *reason)
{
    snprintf(session->reason, sizeof(session->reason), "%s", reason);
}

bool
session_locate(struct session *session, const char *cache_tag, const char *soabi, const char *build)
{
    const char *prefix = session->prefix;
    if (session->settings.cache_root[0] == '\0') {
        return false;
    }
    uint64_t hash = pycds_checksum(prefix, strlen(prefix));
    hash = hash * 3 + pycds_checksum(soabi, strlen(soabi));
    hash = hash * 3 + pycds_checksum(build, strlen(build));
    return PRINT_FITS(
               session->folder, "%s/%s-%016llx", session->settings.cache_root, cache_tag, (unsigned long long)hash)
           && PRINT_FITS(session->image_path, "%s/image-%s.pycds", session->folder, session->variant)
           && PRINT_FITS(session->spool_path, "%s/misses.spool", session->folder)
           && PRINT_FITS(session->lock_path, "%s/lock", session->folder)
           && PRINT_FITS(session->state_path, "%s/state.json", session->folder);
}

/* Is the sub-folder one that we may believe? NULL, or a reason; *missing: it does not exist. */
static const char *
check_folder(const char *folder, bool *missing)
{
    struct stat status;
    *missing = false;
    if (lstat(folder, &status) != 0) {
        *missing = errno == ENOENT;
        return *missing ? "no archive yet" : "cache folder cannot be reached";
    }
    if (!S_ISDIR(status.st_mode)) {
        return "cache folder refused: it is not a directory";
    }
    if (status.st_uid != geteuid() && status.st_uid != 0) {
        return "cache folder refused: it belongs to another user";
    }
    if (status.st_mode & (S_IWGRP | S_IWOTH)) {
        return "cache folder refused: others may write it";
    }
    return NULL;
}

static bool
is_limited(int resource)
{
    struct rlimit limit;
    return getrlimit(resource, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
}

void
session_open(struct session *session)
{
    bool missing;
    const char *reason = check_folder(session->folder, &missing);
    session->recording = !session->settings.readonly && (reason == NULL || missing);
    if (!session->recording) {
        session->record_reason = session->settings.readonly ? "PYCDS_READONLY is set" : reason;
    }
    if ((reason == NULL || missing) && (is_limited(RLIMIT_AS) || is_limited(RLIMIT_DATA))) {
        reason = "the address space is limited here"; /* and belongs to the program */
        session->recording = false; /* an image would be of no use, and each run would ask for one again */
        session->record_reason = reason;
    }
    if (reason == NULL) {
        reason = image_open(&session->image, session->image_path, session->identity, &missing);
    }
    session_set_reason(session, reason == NULL ? "" : reason);
}

void
session_free(struct session *session)
{
    image_close(&session->image);
    free(session->identity);
    free(session->executable);
    free(session->prefix);
    free(session->stdlib);
    free(session->package_parent);
    free(session);
}
