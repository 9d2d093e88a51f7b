/* Which slots a new class gets: the C functions behind its special methods.

   CPython's fixup_slot_dispatchers looks for each of some ninety special methods in each class of the method resolution
   order, and then decides slot by slot (update_one_slot, Objects/typeobject.c, 3.11 to 3.15). Here the same is found
   out in three ways, the cheapest first:
   - With a single base, a name that isn't in the class's own namespace is found where the base finds it, so the slot is
     the base's, if the base was made by a class statement: then its slots are kept up to date. Slots are copied from
     the base, those of the class's own special methods from a class that has all special methods.
   - With several bases, the same goes for special methods that none of the classes has by which the order differs from
     the best base's. Those that one of them has are looked up; where it is the program's, its slots get the functions
     that look methods up, whatever else shares them.
   - Otherwise (a base of the interpreter's or an extension's, its slot wrappers in a namespace or among several bases),
     the decision itself is made again: what is found of each special method, by one walk through the namespaces, and
     then what update_one_slot does with it. What that gives for a base without further special methods is kept, as a
     model for other classes of that base: as long as the base has the version tag that it had, if it can change.
   What the interpreter decides by is static in it, but for two things known from a class with all special methods and
   from any class without: the functions that look methods up, and what stands for a missing __next__. */
#ifndef PYCDS_CLASS_SLOTS_H
#define PYCDS_CLASS_SLOTS_H

#include "native_layout.h"
#include "state.h"

#if CLASSES_SUPPORTED

#define CLASS_SPECIALS 128

/* What a namespace has of special methods. */
struct class_specials {
    int count;
    PyObject *names[CLASS_SPECIALS]; /* borrowed */
    bool all_of_program; /* none is the interpreter's */
};

/* Once, before anything else. False with an exception. */
bool class_slots_prepare(struct classes *all);

/* What a name in a class's namespace means. */
enum {
    CLASS_NAME_OTHER = -1,
    CLASS_NAME_SLOTS = -2,
    CLASS_NAME_QUALNAME = -3,
    CLASS_NAME_CELL = -4,
    CLASS_NAME_DICTIONARY_CELL = -5,
    CLASS_NAME_INIT_SUBCLASS = -6,
    CLASS_NAME_CLASS_GETITEM = -7,
    CLASS_NAME_DESCRIPTOR = -8,
};

/* One of these; or, 0 or more, that it is the name of a special method that stands for a slot. */
int class_slots_name(struct classes *all, PyObject *name);

/* Is it the name `__new__`? */
bool class_slots_is_new(int meaning);

/* The version tag of a type; 0: it has none. Every change of a type gives it another one, and no two have the same. */
static inline unsigned int
class_slots_tag(const PyTypeObject *type)
{
    return !CLASSES_TAGS_ARE_FLAGGED || type->tp_flags & Py_TPFLAGS_VALID_VERSION_TAG ? type->tp_version_tag : 0;
}

/* Would update_one_slot treat this value of a special method as the program's, whatever its name and class? */
bool class_slots_of_program(PyObject *value);

/* Would type.__setattr__ leave this special method to a descriptor of the metaclass? */
bool class_slots_set_by_metatype(PyTypeObject *metatype, PyObject *name);

/* A namespace with each special method that has a number for which number % of == rest; or NULL with an exception. */
PyObject *class_slots_every_name(size_t of, size_t rest);

/* Was a heap type made by a class statement, so that fixup_slot_dispatchers made its slots? */
bool class_slots_by_class_statement(const struct classes *all, const PyTypeObject *type);

/* Gives a class that PyType_Ready has made ready its slots. False with an exception, or without one: they can't be
   told. */
bool class_slots_give(struct classes *all, PyTypeObject *type, const struct class_specials *own);

/* Forgets all models and names. */
void class_slots_clear(struct classes *all);

#endif
#endif
