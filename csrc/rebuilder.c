#include "rebuilder.h"

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "image.h"

extern char **environ;

/* How long after a rebuild, in seconds, the next may start: for new modules, while there is no image (the last rebuild
   failed, then), for what only changed, for misses that nobody folded. */
enum { PAUSE_NEW = 5, PAUSE_NO_IMAGE = 60, PAUSE_CHANGED = 60, PAUSE_LEFT_OVER = 300, PAUSE_RESULTS = 3600 };

#define MANY_RESULTS 8

/* The one session of this process; not a Python object, and set in the main interpreter only. */
static struct session *exit_session;

/* Confinement that a process can put on itself and never off: system call filters, and the flag without which an
   unprivileged process gets neither those nor a Landlock domain. Two system calls. */
struct confinement {
    int filtered, no_new_privileges;
};

static struct confinement confinement_at_start;

static struct confinement
confinement_now(void)
{
    struct confinement now = {0, 0};
#ifdef __linux__
    now.filtered = prctl(PR_GET_SECCOMP);
    now.no_new_privileges = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
#endif
    return now;
}

/* Has the program locked itself in since its start? What a rebuilder needs may be forbidden then, on pain of death, and
   a rebuilder that lives would see what little the program may see. */
static bool
is_confined(void)
{
    struct confinement now = confinement_now();
    return now.filtered != confinement_at_start.filtered
           || now.no_new_privileges != confinement_at_start.no_new_privileges;
}

/* Seconds since a file was written; a very long time if it is not there or lies in the future. */
static double
seconds_since_written(const char *path, off_t *size)
{
    struct stat status;
    *size = 0;
    if (stat(path, &status) != 0) {
        return 1e12;
    }
    *size = status.st_size;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double age = (double)now.tv_sec + (double)now.tv_nsec / 1e9 - (double)stat_mtime_ns(&status) / 1e9;
    return age < 0 ? 1e12 : age;
}

/* Were there misses at the start that nobody had folded? Asked then, so that the end of a program that missed nothing
   makes no system call: it may have confined itself meanwhile. */
static bool found_left_over;

/* Did this process find or make anything to fold? */
static bool
has_something_to_fold(const struct session *session)
{
    return session->worthy_modules + session->worthy_changes + session->worthy_directories > 0
           || session->worthy_results >= MANY_RESULTS || found_left_over;
}

/* Was the image replaced while this process ran? Then our misses are most likely folded already. */
static bool
image_was_replaced(const struct session *session, bool *exists)
{
    struct stat status;
    *exists = stat(session->image_path, &status) == 0;
    return *exists
           && (session->image.bytes == NULL || session->image.file_mtime_ns != stat_mtime_ns(&status)
               || session->image.file_inode != (uint64_t)status.st_ino);
}

static bool
rebuild_is_worth_it(const struct session *session)
{
    off_t size;
    uint64_t worthy = session->worthy_modules + session->worthy_changes + session->worthy_directories;
    (void)seconds_since_written(session->spool_path, &size);
    if (size == 0) {
        return false; /* folded meanwhile */
    }
    bool image_exists;
    double since_rebuild = seconds_since_written(session->state_path, &size);
    double since_attempt = seconds_since_written(session->lock_path, &size);
    if (since_attempt < since_rebuild) {
        since_rebuild = since_attempt; /* it runs, or ended without a report */
    }
    bool damaged = strncmp(session->reason, "archive", 7) == 0; /* it exists and cannot be used */
    if (!image_was_replaced(session, &image_exists) || damaged) {
        if (session->worthy_modules > 0
            && since_rebuild >= (image_exists && !damaged ? PAUSE_NEW : PAUSE_NO_IMAGE)) {
            return true;
        }
        if (worthy > 0 && since_rebuild >= PAUSE_CHANGED) {
            return true;
        }
        /* They alone are worth one now and then: some programs make other ones each time. */
        if (session->worthy_results >= MANY_RESULTS && since_rebuild >= PAUSE_RESULTS) {
            return true;
        }
    }
    return found_left_over && since_rebuild >= PAUSE_LEFT_OVER;
}

/* What is no Python would do something else if it was started with "-c". */
bool
executable_is_python(const char *executable)
{
    if (executable == NULL || executable[0] != '/') {
        return false;
    }
    const char *name = strrchr(executable, '/') + 1;
    if (strncmp(name, "python", 6) != 0) {
        return false;
    }
    for (name += 6; *name; name++) {
        if (!isdigit((unsigned char)*name) && *name != '.' && *name != 'd' && *name != 't') {
            return false;
        }
    }
#ifdef __linux__
    struct stat running, named;
    return stat("/proc/self/exe", &running) == 0 && stat(executable, &named) == 0 && running.st_ino == named.st_ino
           && running.st_dev == named.st_dev;
#else
    return access(executable, X_OK) == 0;
#endif
}

/* Locks the folder for the rebuilder to come: the lock goes with the descriptor to the child and ends with it, even if
   it is killed, so a crowd of processes that end together starts one. Returns the descriptor; -1: one is running. */
static int
claim(const struct session *session)
{
    int fd = open(session->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        close(fd);
        return -1;
    }
    return fd;
}

/* The environment with the guards against recursion. Owned by the caller (the array, not the strings); NULL: no
   memory. */
static char **
guarded_environment(void)
{
    static char disable[] = "PYCDS_DISABLE=1";
    static char guard[] = "PYCDS_REBUILDER=1";
    size_t count = 0;
    while (environ != NULL && environ[count] != NULL) {
        count++;
    }
    char **guarded = malloc((count + 3) * sizeof(char *));
    if (guarded == NULL) {
        return NULL;
    }
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (strncmp(environ[i], "PYCDS_DISABLE=", 14) != 0) {
            guarded[kept++] = environ[i];
        }
    }
    guarded[kept++] = disable;
    guarded[kept++] = guard;
    guarded[kept] = NULL;
    return guarded;
}

static void
close_from(int first)
{
#ifdef SYS_close_range
    if (syscall(SYS_close_range, (unsigned)first, ~0U, 0) == 0) {
        return;
    }
#endif
    struct rlimit limit;
    int end = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < 65536 ? (int)limit.rlim_cur : 65536;
    for (int fd = first; fd < end; fd++) {
        close(fd);
    }
}

/* In the child of vfork, which shares our memory: system calls only. Does not return. */
static void
become_rebuilder(char *const *arguments, char *const *environment, int claimed)
{
    setsid();
    struct sigaction plain = {.sa_handler = SIG_DFL};
    for (int number = 1; number < NSIG; number++) {
        sigaction(number, &plain, NULL);
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpriority(PRIO_PROCESS, 0, 19);
#ifdef SYS_ioprio_set
    syscall(SYS_ioprio_set, 1 /* this process */, 0, 3 << 13 /* idle class */);
#endif
    if (chdir("/") != 0) {
        _exit(127);
    }
    /* the claimed descriptor out of the way of 0..2, then to its place */
    int kept = claimed < 0 ? -1 : fcntl(claimed, F_DUPFD, 10);
    int null = open("/dev/null", O_RDWR);
    if (null < 0) {
        _exit(127);
    }
    for (int fd = 0; fd < 3; fd++) {
        if (null != fd) {
            dup2(null, fd);
        }
    }
    if (kept >= 0) {
        dup2(kept, 3);
    }
    close_from(kept >= 0 ? 4 : 3);
    execve(arguments[0], arguments, environment);
    _exit(127);
}

/* vfork in a function of its own: nothing else lives in the frame that parent and child share. */
__attribute__((noinline)) static void
fork_rebuilder(char *const *arguments, char *const *environment, int claimed)
{
    if (vfork() == 0) {
        become_rebuilder(arguments, environment, claimed);
    }
}

/* The same for a program that goes on: the rebuilder isn't its child, nor is anything left to be waited for, no signal
   comes, and the time that the process between them takes isn't counted as its children's: SIGCHLD is ignored
   meanwhile, and then the kernel keeps no trace of a child (waitpid(2), NOTES). */
__attribute__((noinline)) static void
fork_detached_rebuilder(char *const *arguments, char *const *environment, int claimed)
{
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    struct sigaction before;
    if (sigaction(SIGCHLD, &ignore, &before) != 0) {
        return;
    }
    pid_t between = vfork();
    if (between == 0) {
        if (vfork() == 0) {
            become_rebuilder(arguments, environment, claimed);
        }
        _exit(0);
    }
    if (between > 0) {
        (void)waitpid(between, NULL, 0);
    }
    sigaction(SIGCHLD, &before, NULL);
}

/* `detached`: the program goes on. */
static void
start_rebuilder(const struct session *session, bool detached)
{
    char **environment = guarded_environment();
    if (environment == NULL) {
        return;
    }
    int claimed = claim(session);
    if (claimed < 0 && errno == EWOULDBLOCK) {
        free(environment);
        return;
    }
    /* The package's folder goes to the end of sys.path: nothing there can shadow the standard library. */
    static const char boot[] = "import sys; sys.path.append(sys.argv[1]); from pycds_auto.rebuild import main; main()";
    const char *optimise = session->variant[0] == '1' ? "-O" : session->variant[0] == '2' ? "-OO" : "-B";
    const char *ranges = strchr(session->variant, 'n') != NULL ? "-Xno_debug_ranges" : "-B";
    const char *arguments[] = {
        session->executable, "-I", "-S", "-B", optimise, ranges, "-c", boot, session->package_parent,
        session->folder, session->variant, session->prefix, session->identity, NULL};
    sigset_t all, before;
    sigfillset(&all);
    /* No handler of the program may run in the child while it shares our memory. */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    /* The lock file's time says when it was tried last, should the rebuilder not live to report. */
    int lock = open(session->lock_path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (lock >= 0) {
        futimens(lock, NULL);
        (void)!fchmod(lock, 0600); /* the umask is the program's */
        close(lock);
    }
    (detached ? fork_detached_rebuilder : fork_rebuilder)((char *const *)arguments, environment, claimed);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (claimed >= 0) {
        close(claimed);
    }
    free(environment);
}

/* Does the session say all that a rebuilder has to be told? */
static bool
knows_environment(const struct session *session)
{
    return session->executable != NULL && session->prefix != NULL && session->package_parent != NULL
           && session->identity != NULL;
}

static void
at_exit(void)
{
    struct session *session = exit_session;
    exit_session = NULL;
    if (session == NULL) {
        return;
    }
    bool wanted = session->recording && has_something_to_fold(session) && knows_environment(session);
    if ((wanted || session->settings.log) && session->pid == getpid()) {
        bool started = false;
        wanted = wanted && rebuild_is_worth_it(session) && executable_is_python(session->executable);
        /* Asked last: a filter may forbid the question, too. */
        if (wanted && is_confined()) {
            session->record_reason = "the program has confined itself";
        }
        else if (wanted) {
            start_rebuilder(session, false);
            started = true;
        }
        if (session->settings.log) {
            char bypassed[160] = "";
            if (session->bypassed > 0) {
                snprintf(
                    bypassed, sizeof(bypassed), "; %llu look-ups left to plain Python: %s",
                    (unsigned long long)session->bypassed, session->bypass_reason);
            }
            fprintf(
                stderr, "pycds-auto: %s%s; hits=%llu misses=%llu stale=%llu%s%s%s%s%s\n",
                session->reason[0] ? "not active: " : "active", session->reason, (unsigned long long)session->hits,
                (unsigned long long)session->misses, (unsigned long long)session->stale, bypassed,
                session->record_reason ? "; not recording: " : "",
                session->record_reason ? session->record_reason : "", started ? "; rebuilder asked for" : "",
                session->end_shortened ? "; objects left to the system" : "");
        }
    }
    session->image.bytes = NULL; /* unmapped by the end of the process, at less cost */
    session_free(session);
}

void
rebuilder_arm(struct session *session)
{
    exit_session = session;
    if (session->recording) {
        off_t size;
        double since_miss = seconds_since_written(session->spool_path, &size);
        found_left_over = size > 0 && since_miss >= PAUSE_LEFT_OVER && since_miss < 1e11;
    }
    confinement_at_start = confinement_now();
    if (Py_AtExit(at_exit) != 0) {
        exit_session = NULL; /* thirty-two others were first: no rebuilder from this process */
    }
}

void
rebuilder_fold_left_over(const struct session *session)
{
    /* What process 1 leaves behind is its child again. */
    if (session->recording && found_left_over && exit_session == session && knows_environment(session)
        && session->pid != 1 && rebuild_is_worth_it(session) && executable_is_python(session->executable)) {
        start_rebuilder(session, true);
        found_left_over = false;
    }
}
