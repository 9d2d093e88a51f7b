/* Results of pure functions that the image keeps beside the code of modules (patterns.h, sources.h): which of them are
   worth recording.

   Why this shape
   - Such a result is a record of the image like a module's, whose key takes the place of the path. It can't be one,
     since paths begin with a slash. So results are found, checked, aged and dropped as modules are.
   - What programs compute once they run is theirs alone, and may be different each time: only what an import under way
     asks for is recorded.
   - Some imports ask for other results in each run (a name with a random number in it, a set in its order). Where a
     module was missing, too, what is new is believed to come again. Where all modules were hits, fewer than eight
     aren't worth a write, and more are recorded as doubtful: the rebuilder takes them in when it sees them a second
     time, in another process.
   - A process records each key once and a thousand of each kind at most. */
#ifndef PYCDS_RESULTS_H
#define PYCDS_RESULTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "recorder.h"
#include "session.h"

struct result_key {
    char *bytes; /* owned */
    size_t size;
    bool takes_part; /* else the plain function is to be called, and nothing recorded */
};

#define RESULTS_WAITING 7

/* What a process noted of one kind. All zero at first. */
struct result_notes {
    unsigned int noted; /* keys recorded */
    uint64_t *known; /* their checksums, a hash table; owned, NULL while there are none */
    int waiting_count;
    struct result_key waiting[RESULTS_WAITING]; /* misses that may not be worth it */
};

/* The bytes of an exact str in utf-8, as a key holds them. Not PyUnicode_AsUTF8: that leaves its result in the string,
   which sys.getsizeof shows. *keep is a new reference that the bytes live as long as, or NULL where the str itself is
   that. False: it can't be encoded (no exception), or there is no memory (exception). */
bool result_text(PyObject *text, PyObject **keep, const char **bytes, size_t *size);

enum result_note {
    RESULT_NOTED, /* is or will be recorded */
    RESULT_KNOWN, /* was already */
    RESULT_PASSED_BY, /* isn't to be recorded */
};

/* Says that a result wasn't in the image. Takes over key->bytes (sets it to NULL) where it needs them longer. `kind`:
   of the spool's lines; `flag`: of the image's records. */
enum result_note results_note_miss(
    struct session *session, struct result_notes *notes, enum miss_kind kind, unsigned int flag,
    struct result_key *key);

/* Says that a result was used which the image would drop otherwise (MODULE_AGED). */
void results_note_aged(
    struct session *session, struct result_notes *notes, enum miss_kind kind, const struct result_key *key);

/* Is a module being imported by the code that runs now? */
bool import_is_under_way(void);

void results_clear(struct result_notes *notes);

#endif
