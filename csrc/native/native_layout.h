/* What differs between CPython versions in the objects that the native decoder makes: everything of it is here and in
   native_layout.c, a section for each minor version. The extension is compiled for one exact minor version; whether the
   running interpreter is laid out as its headers said is checked at run time (native_layout_check), and where anything
   is off the caller uses the `marshal` encoding instead.

   A new version is a new section in both files: immortality here; fill, take apart, differences, check there.

   Include after Python.h. Defines Py_BUILD_CORE for the internal headers, so it comes first in the files that need it. */
#ifndef PYCDS_NATIVE_LAYOUT_H
#define PYCDS_NATIVE_LAYOUT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

/* Is there a section for this version? GIL builds with plain object headers on 64-bit little-endian machines only. */
#if PY_VERSION_HEX >= 0x030b0000 && PY_VERSION_HEX < 0x030e0000 && !defined(Py_GIL_DISABLED) && !defined(Py_TRACE_REFS)  \
    && !defined(PYPY_VERSION) && SIZEOF_VOID_P == 8 && PY_LITTLE_ENDIAN
#define NATIVE_SUPPORTED 1
#else
#define NATIVE_SUPPORTED 0
#endif

#if NATIVE_SUPPORTED

/* ---- immortality ---- */

#if PY_VERSION_HEX < 0x030c0000
/* 3.11 counts every reference of every object (Include/object.h, Py_INCREF, Py_DECREF): a count that no program can
   bring to zero stands for immortality. Half of the range is left in either direction. */
#define NATIVE_REFCOUNT ((Py_ssize_t)1 << 60)
#elif PY_VERSION_HEX < 0x030e0000
/* 3.12, 3.13: Include/object.h, _Py_IMMORTAL_REFCNT. */
#define NATIVE_REFCOUNT _Py_IMMORTAL_REFCNT
#endif
/* Next, 3.14 and 3.15 (GIL builds; read in their headers, not enabled): Include/refcount.h,
   _Py_IMMORTAL_INITIAL_REFCNT, to be stored in ob_refcnt_full, since ob_refcnt has 32 bits there with ob_overflow and
   ob_flags beside it, which must be zero; immortal is whatever has bit 31 of ob_refcnt set. */

static inline void
native_set_immortal(PyObject *object)
{
    object->ob_refcnt = NATIVE_REFCOUNT;
}

/* Is it an object that native_set_immortal was used on, whatever became of its count since? */
static inline bool
native_is_immortal(PyObject *object)
{
#if PY_VERSION_HEX < 0x030c0000
    return object->ob_refcnt > NATIVE_REFCOUNT / 2 && object->ob_refcnt < NATIVE_REFCOUNT + NATIVE_REFCOUNT / 2;
#else
    return object->ob_refcnt == NATIVE_REFCOUNT;
#endif
}

/* An object whose reference count nobody keeps any more: the slots of an image hold it until the process ends. */
static inline void
native_keep_forever(PyObject *object)
{
#if PY_VERSION_HEX < 0x030c0000
    if (object->ob_refcnt < NATIVE_REFCOUNT / 2) {
        object->ob_refcnt += NATIVE_REFCOUNT;
    }
#else
    (void)object; /* interned strings are immortal, others keep the reference that they were made with */
#endif
}

/* ---- code objects ---- */

/* A code object's parts, in the order in which marshal has them (Python/marshal.c, TYPE_CODE, 3.11 to 3.14). */
enum native_code_number {
    NATIVE_ARGCOUNT,
    NATIVE_POSONLYARGCOUNT,
    NATIVE_KWONLYARGCOUNT,
    NATIVE_STACKSIZE,
    NATIVE_FLAGS,
    NATIVE_FIRSTLINENO,
    NATIVE_FIRSTTRACEABLE, /* index of the code unit; not in marshal */
    NATIVE_CODE_NUMBERS,
};

enum native_code_object {
    NATIVE_CONSTS,
    NATIVE_NAMES,
    NATIVE_LOCALSPLUSNAMES,
    NATIVE_LOCALSPLUSKINDS,
    NATIVE_FILENAME,
    NATIVE_NAME,
    NATIVE_QUALNAME,
    NATIVE_LINETABLE,
    NATIVE_EXCEPTIONTABLE,
    NATIVE_CODE_OBJECTS,
};

struct native_code_parts {
    int numbers[NATIVE_CODE_NUMBERS];
    Py_ssize_t units; /* code units in adaptive form, as the constructor makes them; in the object */
    PyObject *objects[NATIVE_CODE_OBJECTS];
};

/* The state of the interpreter that new code objects need. */
struct native_layout {
    PyInterpreterState *interpreter;
    bool fixed_types; /* the types of constants have the same addresses in every process of this interpreter */
    bool debug; /* a Py_DEBUG interpreter: gives interned strings back to the heap at its end */
};

#define NATIVE_CODE_HEAD offsetof(PyCodeObject, co_code_adaptive)
#define NATIVE_UNIT_BYTES 2

/* Fills a code object in memory of NATIVE_CODE_HEAD + NATIVE_UNIT_BYTES * units bytes; its code units are filled already. Takes over the
   references in `parts`. False: the parts don't fit together, nothing was filled. Never raises. */
bool native_code_fill(const struct native_layout *layout, PyCodeObject *code, const struct native_code_parts *parts);

/* The parts of a code object that was never executed; borrowed. */
void native_code_take_apart(PyCodeObject *code, struct native_code_parts *parts);

/* Compares the fields that are no objects, of two code objects that were never executed. NULL, or what differs. */
const char *native_code_difference(PyCodeObject *one, PyCodeObject *other);

/* May code objects be made now? False while something watches them being made. */
bool native_layout_may_make_code(const struct native_layout *layout);

/* Checks that the running interpreter is laid out as this extension was compiled for; fills *layout. NULL, or a reason
   (static text). Cheap: a few objects are made. Never raises. */
const char *native_layout_check(struct native_layout *layout);

#endif
#endif
