/* Classes: made without looking up all special methods. A class statement costs 5 us (PGO) to 11 us, and programs make a
   thousand while they are imported; two thirds of that is CPython's fixup_slot_dispatchers (Objects/typeobject.c, 3.11 to
   3.13), which looks for each of some ninety special methods in each class of the method resolution order, to find out what
   the slots of the new class are. That is a tenth to a quarter of an import.

   Why this shape
   - The answer is known for most classes. For one with a single base, a name that isn't in its own namespace is found where
     the base finds it, so the slot is the base's; and the interpreter keeps the base's slots up to date. So slots are copied
     from the base; and those of a special method in the namespace from a class that has all special methods.
   - With several bases, the same goes for special methods that none of the classes has by which the order differs from the
     best base's. Those that one of them has are looked up. What is found is the program's: then its slots get the functions
     that look methods up, whatever else shares them. It is the interpreter's, and shares slots (`__getitem__` of a deque that
     stands before a class that has one, too): then the class is given up and type.__new__ makes it.
   - The best base is `object`; or a class that a class statement made; or any other type of which the interpreter has made a
     subclass without special methods: that one's slots are remembered. For types on the heap (ast.AST), which can change, until
     their version tag does.
   - Everything else is made by type.__new__ as ever: metaclasses with an mro() or a __del__ of their own, namespaces with other
     keys than strings, special methods that are slot wrappers, unusual __slots__.
   - `type`'s tp_new is replaced, which nobody can see from Python: type.__new__ is a wrapper that calls it. What precedes and
     follows the slots is done as there, step for step; all that is static in the interpreter (the functions of tp_dealloc and
     so on, the __dict__ and __weakref__ descriptors) is taken from a class that it made. PyType_Ready does most of the rest.
   - At installation, classes are made in both ways and compared, byte by byte; where anything differs, nothing is replaced. */
#ifndef PYCDS_CLASSES_H
#define PYCDS_CLASSES_H

#include "state.h"

/* Puts ours in place, once. Leaves no exception. */
void classes_install(loader_state *state);

/* From here on all classes are type.__new__'s again. What was replaced stays: metaclasses have inherited it. */
void classes_clear(loader_state *state);
int classes_traverse(loader_state *state, visitproc visit, void *arg);

#endif
