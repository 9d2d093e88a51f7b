#include "results.h"

#include <stdlib.h>

#include "checksum.h"

#define MOST_NOTED 1000 /* keys of one kind that one process records */
#define KNOWN_SLOTS 2048 /* a power of two, twice as many at least */
#define MOST_FRAMES 200 /* looked at to find an import under way */

bool
result_text(PyObject *text, PyObject **keep, const char **bytes, size_t *size)
{
    *keep = NULL;
    if (PyUnicode_IS_ASCII(text)) {
        *bytes = (const char *)PyUnicode_1BYTE_DATA(text);
        *size = (size_t)PyUnicode_GET_LENGTH(text);
        return true;
    }
    *keep = PyUnicode_AsUTF8String(text);
    if (*keep == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_MemoryError)) {
            PyErr_Clear(); /* lone surrogates */
        }
        return false;
    }
    *bytes = PyBytes_AS_STRING(*keep);
    *size = (size_t)PyBytes_GET_SIZE(*keep);
    return true;
}

bool
import_is_under_way(void)
{
    PyFrameObject *frame = PyEval_GetFrame();
    Py_XINCREF(frame);
    bool found = false;
    for (int i = 0; frame != NULL && !found && i < MOST_FRAMES; i++) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        found = PyUnicode_CompareWithASCIIString(code->co_filename, "<frozen importlib._bootstrap>") == 0;
        Py_DECREF(code);
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
    return found;
}

/* Takes note of a key. False: it is known already, or there is no memory. */
static bool
is_new(struct result_notes *notes, const struct result_key *key)
{
    if (notes->known == NULL && (notes->known = calloc(KNOWN_SLOTS, sizeof(*notes->known))) == NULL) {
        return false;
    }
    uint64_t checksum = pycds_checksum(key->bytes, key->size) | 1; /* 0 is an empty slot */
    size_t slot = (size_t)(checksum >> 1) & (KNOWN_SLOTS - 1);
    for (; notes->known[slot] != 0; slot = (slot + 1) & (KNOWN_SLOTS - 1)) {
        if (notes->known[slot] == checksum) {
            return false;
        }
    }
    notes->known[slot] = checksum;
    return true;
}

static enum result_note
write_down(
    struct session *session, struct result_notes *notes, enum miss_kind kind, bool doubtful,
    const struct result_key *key)
{
    if (!session->recording || notes->noted >= MOST_NOTED) {
        return RESULT_PASSED_BY;
    }
    if (!is_new(notes, key)) {
        return RESULT_KNOWN;
    }
    notes->noted++;
    recorder_note_result(session, kind, doubtful, key->bytes, key->size);
    return RESULT_NOTED;
}

static void
drop_waiting(struct result_notes *notes)
{
    for (int i = 0; i < notes->waiting_count; i++) {
        free(notes->waiting[i].bytes);
    }
    notes->waiting_count = 0;
}

static bool
is_waiting(const struct result_notes *notes, const struct result_key *key)
{
    for (int i = 0; i < notes->waiting_count; i++) {
        if (notes->waiting[i].size == key->size && memcmp(notes->waiting[i].bytes, key->bytes, key->size) == 0) {
            return true;
        }
    }
    return false;
}

enum result_note
results_note_miss(
    struct session *session, struct result_notes *notes, enum miss_kind kind, unsigned int flag, struct result_key *key)
{
    bool serves = session_serves(session);
    if (!session->recording || notes->noted >= MOST_NOTED || (serves && session->image.header->full & flag)
        || !import_is_under_way()) {
        return RESULT_PASSED_BY;
    }
    bool doubtful = serves && session->misses == 0;
    if (doubtful && notes->noted == 0) {
        if (is_waiting(notes, key)) {
            return RESULT_KNOWN;
        }
        if (notes->waiting_count < RESULTS_WAITING) {
            notes->waiting[notes->waiting_count++] = *key;
            key->bytes = NULL;
            return RESULT_NOTED;
        }
    }
    for (int i = 0; i < notes->waiting_count; i++) {
        write_down(session, notes, kind, doubtful, &notes->waiting[i]);
    }
    drop_waiting(notes);
    return write_down(session, notes, kind, doubtful, key);
}

void
results_note_aged(
    struct session *session, struct result_notes *notes, enum miss_kind kind, const struct result_key *key)
{
    write_down(session, notes, kind, false, key);
}

void
results_clear(struct result_notes *notes)
{
    drop_waiting(notes);
    free(notes->known);
    notes->known = NULL;
}
