/* Classes: made without looking up all special methods. A class statement costs 5 us (PGO) to 11 us, and programs make
   a thousand while they are imported; two thirds of that is CPython's fixup_slot_dispatchers (Objects/typeobject.c,
   3.11 to 3.15), which looks for each of some ninety special methods in each class of the method resolution order, to
   find out what the slots of the new class are. That is a tenth to a quarter of an import.

   Why this shape
   - The answer is known for most classes without looking: class_slots.h tells how the slots are found.
   - What is unusual is made by type.__new__ as ever: metaclasses in C, or with an mro() or a __del__ of their own,
     namespaces with other keys than strings, names in __slots__ that are mangled or clash.
   - `type`'s tp_new is replaced, which nobody can see from Python: type.__new__ is a wrapper that calls it. What
     precedes and follows the slots is done as there, step for step; all that is static in the interpreter (the
     functions of tp_dealloc and so on, the __dict__ and __weakref__ descriptors) is taken from a class that it made.
     PyType_Ready does most of the rest.
   - At installation, classes are made in both ways and compared, byte by byte; where anything differs, nothing is
     replaced. */
#ifndef PYCDS_CLASSES_H
#define PYCDS_CLASSES_H

#include "state.h"

/* Puts ours in place, once. Leaves no exception. */
void classes_install(loader_state *state);

/* From here on all classes are type.__new__'s again. What was replaced stays: metaclasses have inherited it. */
void classes_clear(loader_state *state);
int classes_traverse(loader_state *state, visitproc visit, void *arg);

#endif
