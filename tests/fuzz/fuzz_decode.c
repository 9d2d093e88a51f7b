/* libFuzzer target: native_decode over any bytes, under AddressSanitizer, with an arena of single blocks so that every
   overrun of an object shows. See README.md. The first byte chooses between two uses of the input: as a stream against
   the shared table in SHARED_TABLE (a file), or as a table, of which every entry is wanted. What is decoded is walked and
   printed, never executed. */
#include "native_decode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"

static struct native_context context;
static unsigned char *table;
static size_t table_size;

static void
read_table(const char *path)
{
    FILE *file = path == NULL ? NULL : fopen(path, "rb");
    if (file != NULL) {
        fseek(file, 0, SEEK_END);
        table_size = (size_t)ftell(file);
        rewind(file);
        table = malloc(table_size + 1);
        if (fread(table, 1, table_size, file) != table_size) {
            abort();
        }
        fclose(file);
    }
}

/* Makes the checksums of a table right, so that the fuzzer reaches what is behind them. */
static void
repair(unsigned char *bytes, size_t size)
{
    struct native_shared_head head;
    if (size < sizeof(head)) {
        return;
    }
    memcpy(&head, bytes, sizeof(head));
    head.checksum = pycds_checksum(&head, offsetof(struct native_shared_head, checksum));
    memcpy(bytes, &head, sizeof(head));
    for (uint32_t i = 0; i < head.block_count && (i + 1) * sizeof(struct native_block_record) <= size - sizeof(head); i++) {
        struct native_block_record record;
        unsigned char *at = bytes + sizeof(head) + i * sizeof(record);
        memcpy(&record, at, sizeof(record));
        if (record.offset <= size && record.bytes <= size - record.offset) {
            const uint32_t place[] = {record.offset, record.bytes, i};
            record.checksum =
                pycds_checksum(bytes + record.offset, record.bytes) ^ pycds_checksum(place, sizeof(place));
            memcpy(at, &record, sizeof(record));
        }
    }
}

/* Seeds come from an interpreter whose types lie at fixed addresses, BYTES_TYPE; here they lie elsewhere. */
static void
repair_types(unsigned char *bytes, size_t size)
{
    static uintptr_t there;
    const uintptr_t here = (uintptr_t)&PyBytes_Type;
    if (there == 0) {
        there = strtoull(getenv("BYTES_TYPE"), NULL, 0);
        context.layout.fixed_types = true;
    }
    for (size_t i = 0; i + sizeof(there) <= size; i += sizeof(there)) {
        if (memcmp(bytes + i, &there, sizeof(there)) == 0) {
            memcpy(bytes + i, &here, sizeof(here));
        }
    }
}

static void
check(PyObject *object, int depth)
{
    if (depth > NATIVE_DEPTH_LIMIT + 1) {
        abort();
    }
    if (PyTuple_CheckExact(object)) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); i++) {
            if (depth < 6) {
                check(PyTuple_GET_ITEM(object, i), depth + 1);
            }
        }
    }
    else if (PyCode_Check(object)) {
        struct native_code_parts parts;
        native_code_take_apart((PyCodeObject *)object, &parts);
        for (int i = 0; i < NATIVE_CODE_OBJECTS; i++) {
            if (depth < 6) {
                check(parts.objects[i], depth + 1);
            }
        }
    }
    else {
        PyObject *text = PyObject_Repr(object);
        if (text == NULL) {
            PyErr_Clear(); /* an int too large for str */
        }
        Py_XDECREF(text);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    Py_InitializeEx(0);
    read_table(getenv("SHARED_TABLE"));
    const char *reason = native_open(&context, table, table_size, true);
    if (reason != NULL) {
        fprintf(stderr, "%s\n", reason);
        abort();
    }
    return 0;
}

int
LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    /* Exact sizes: a byte read outside is seen. */
    unsigned char *copy = malloc(size - 1 ? size - 1 : 1);
    memcpy(copy, data + 1, size - 1);
    if (data[0] & 1) {
        struct native_context other;
        repair(copy, size - 1);
        if (native_open(&other, copy, size - 1, true) == NULL) {
            for (uint32_t i = 0; i < other.entry_count && i < 4096; i++) {
                PyObject *entry = native_shared_entry(&other, i);
                if (entry != NULL) {
                    check(entry, 0);
                }
            }
            native_close(&other);
        }
        free(copy);
    }
    else {
        repair_types(copy, size - 1);
        PyObject *code = native_decode(&context, copy, size - 1);
        if (code != NULL) {
            check(code, 0);
            Py_DECREF(code); /* code that runs once is freed, with its parts */
        }
    }
    static unsigned int executions;
    if (++executions % 2000 == 0) {
        PyGC_Collect(); /* whatever a refused stream left behind must not disturb it */
    }
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_MemoryError)) {
            PyErr_Print();
            abort();
        }
        PyErr_Clear();
    }
    return 0; /* a stream stays: objects in it may be in use by tuples that the collector looks at */
}
