#include "shortcuts.h"

#include "foreign_finder.h"
#include "native_layout.h"
#include "patterns.h"
#include "stand_in.h"

#include <string.h>

#define BOOTSTRAP_FILE "<frozen importlib._bootstrap>"

/* ---- the module lock ---- */

/* importlib._bootstrap._ModuleLockManager(name), a context manager. The ordinary one holds name's _ModuleLock, which it
   finds in, or puts into, _module_locks: a dictionary of weak references, that is, of callables that give a lock or
   None (_get_module_lock, 3.11 to 3.15). While nobody else wants the lock, a reference to ours stands there. Called, it
   makes the real lock, as held by the thread that holds ours. All under the GIL, between two bytecodes. It is as weak
   as the ordinary one, and for the same reason: an exception out of the blue (Ctrl-C) can keep _find_and_load from
   releasing what it has just got, and the lock has to go with its frame.

   A thread is what _thread.get_ident says it is. gevent puts a function of its own there, by which each greenlet is a
   thread, and lock classes of its own: from then on locks are made the ordinary way. It also looks for all _ModuleLocks
   that are held at that moment (gc.get_objects, isinstance) and makes the greenlet their owner. Ours that are held say
   that they are such locks, and take the new owner.

   From 3.15 on _find_and_load does without a manager: it takes the lock from _get_module_lock, and calls its acquire
   and release, which are __enter__ and __exit__ here. Whoever else asks _get_module_lock, gets a lock. That it is a
   class, too, keeps it out of profiles: the call of a built-in function would be told before it could step aside. */
typedef struct lock_manager lock_manager;

typedef struct {
    PyObject_HEAD
    lock_manager *manager; /* NULL: it is gone */
} lock_reference;

struct lock_manager {
    PyObject_HEAD
    PyObject *name; /* owned */
    lock_reference *reference; /* owned: what stands, or stood, for it in _module_locks; NULL: nothing ever */
    PyObject *lock; /* owned: the real lock, once there is one */
    PyObject *joined; /* owned: the manager of the same thread whose hold this one counts up; or NULL */
    PyObject *plain; /* owned: the ordinary manager (3.15: lock), where ours would have to wait; or NULL */
    unsigned long owner; /* thread; settable, as a _ModuleLock's */
    Py_ssize_t count; /* of holds; 0: not held, or by the real lock */
    bool converting; /* real_lock makes it, in Python: other threads run meanwhile */
    Py_ssize_t left; /* times that its owner left meanwhile */
};

#if SHORTCUTS_STAND_IN_FOR_LOCKS
#define MANAGER_NAME "_get_module_lock"
#define MANAGER_ENTER "acquire"
#define MANAGER_ENTERED Py_True
#define MANAGER_EXIT "release"
#else
#define MANAGER_NAME "_ModuleLockManager"
#define MANAGER_ENTER "__enter__"
#define MANAGER_ENTERED Py_None
#define MANAGER_EXIT "__exit__"
#endif

static loader_state *
state_of(PyObject *self)
{
    return PyType_GetModuleState(Py_TYPE(self));
}

static void step_aside(loader_state *state);

/* At the first of an import's steps: is it to be made the ordinary way? Then the others will find what they replaced,
   too. */
static bool
has_stepped_aside(loader_state *state)
{
    if (!import_is_observed(state) && importlib_is_untouched(state)) {
        return false;
    }
    step_aside(state);
    patterns_step_aside(state);
    return true;
}

/* A call that is ours to answer; 3.15: others ask _get_module_lock, too. */
static bool
is_asked_by_importlib(const struct shortcuts *all)
{
#if SHORTCUTS_STAND_IN_FOR_LOCKS
    return native_calling_code() == all->find_and_load;
#else
    (void)all;
    return true;
#endif
}

static PyObject *
manager_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"name", NULL};
    PyObject *name;
    loader_state *state = PyType_GetModuleState(type);
    bool installed = state != NULL && state->shortcuts.installed; /* else a program had kept it, and put it back */
    if (state != NULL && state->shortcuts.plain_manager != NULL
        && (!installed || !is_asked_by_importlib(&state->shortcuts) || has_stepped_aside(state))) {
        leave_call();
        PyObject *result = PyObject_Call(state->shortcuts.plain_manager, arguments, keywords);
        if (!enter_call()) {
            Py_CLEAR(result);
        }
        return result;
    }
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O:" MANAGER_NAME, names, &name)) {
        return NULL;
    }
    lock_manager *self = (lock_manager *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->name = Py_NewRef(name);
    }
    return (PyObject *)self;
}

/* Does importlib have threads and locks as the interpreter makes them? */
static bool
threads_are_plain(loader_state *state)
{
    const struct shortcuts *all = &state->shortcuts;
    PyObject *now = PyDict_GetItemWithError(all->globals, all->strings.thread);
    bool plain = now == all->thread;
    PyObject *contents = plain ? PyModule_GetDict(now) : NULL;
    for (int i = 0; plain && i < SHORTCUT_THREAD_FUNCTIONS; i++) {
        plain = PyDict_GetItemWithError(contents, all->strings.of_thread[i]) == all->of_thread[i];
    }
    PyErr_Clear();
    return plain;
}

/* What stands in _module_locks for our manager. New reference; NULL with an exception. */
static lock_reference *
make_reference(loader_state *state, lock_manager *manager)
{
    PyTypeObject *type = state->shortcuts.reference_type;
    lock_reference *reference = (lock_reference *)type->tp_alloc(type, 0);
    if (reference != NULL) {
        reference->manager = manager;
    }
    return reference;
}

/* Our manager of that name, if it is one of ours that stands there. Borrowed. */
static lock_manager *
own_manager(const loader_state *state, PyObject *there)
{
    return there != NULL && Py_TYPE(there) == state->shortcuts.reference_type ? ((lock_reference *)there)->manager
                                                                              : NULL;
}

/* Takes a manager out of _module_locks, if it stands there. RET_ERROR with an exception. */
static int
take_out(loader_state *state, lock_manager *manager)
{
    PyObject *locks = state == NULL ? NULL : state->shortcuts.module_locks;
    return locks != NULL && manager->reference != NULL
                   && PyDict_GetItemWithError(locks, manager->name) == (PyObject *)manager->reference
                   && PyDict_DelItem(locks, manager->name) != 0
               ? RET_ERROR
               : RET_OK;
}

/* The ordinary manager or lock, entered. */
static PyObject *
enter_plain(loader_state *state, lock_manager *self)
{
    PyObject *plain = PyObject_CallOneArg(state->shortcuts.plain_manager, self->name);
    if (plain == NULL) {
        return NULL;
    }
    PyObject *result = PyObject_CallMethod(plain, MANAGER_ENTER, NULL);
    if (result == NULL) {
        Py_DECREF(plain);
        return NULL;
    }
    self->plain = plain;
    return result;
}

/* Does a thread hold the import lock? _get_module_lock does while it looks for a lock and puts a new one there: ours
   must not come in between. True if in doubt. */
static bool
import_lock_is_held(const loader_state *state)
{
    PyObject *answer = PyObject_CallNoArgs(state->shortcuts.lock_held);
    bool held = answer != Py_False;
    Py_XDECREF(answer);
    PyErr_Clear();
    return held;
}

static PyObject *
manager_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    lock_manager *self = (lock_manager *)object;
    loader_state *state = state_of(object);
    PyObject *locks = state == NULL ? NULL : state->shortcuts.module_locks;
    if (state != NULL) {
        state->shortcuts.entered = NULL;
    }
    if (locks == NULL || self->count != 0 || self->plain != NULL || self->joined != NULL || self->lock != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a module's lock was taken twice, or after the end of pycds_auto");
        return NULL;
    }
    if (!PyUnicode_CheckExact(self->name) || !threads_are_plain(state) || import_lock_is_held(state)) {
        return enter_plain(state, self);
    }
    unsigned long me = PyThread_get_thread_ident();
    PyObject *there = PyDict_GetItemWithError(locks, self->name);
    if (there == NULL) {
        if (PyErr_Occurred() || (self->reference == NULL && (self->reference = make_reference(state, self)) == NULL)
            || PyDict_SetItem(locks, self->name, (PyObject *)self->reference) != 0) {
            return NULL;
        }
        self->owner = me;
        self->count = 1;
        state->shortcuts.entered = self->name;
        state->shortcuts.entered_by = me;
        return Py_NewRef(MANAGER_ENTERED);
    }
    lock_manager *holder = own_manager(state, there);
    if (holder != NULL && holder->owner == me && holder->count > 0) {
        holder->count++;
        self->joined = Py_NewRef((PyObject *)holder);
        return Py_NewRef(MANAGER_ENTERED);
    }
    return enter_plain(state, self);
}

static PyObject *
leave(PyObject *object, lock_manager *self, PyObject *const *arguments, Py_ssize_t count)
{
    loader_state *state = state_of(object);
    if (state != NULL) {
        state->shortcuts.entered = NULL;
    }
    if (self->plain != NULL) {
        PyObject *plain = self->plain;
        self->plain = NULL;
        PyObject *leave = PyObject_GetAttrString(plain, MANAGER_EXIT);
        PyObject *result = leave == NULL ? NULL : PyObject_Vectorcall(leave, arguments, (size_t)count, NULL);
        Py_XDECREF(leave);
        Py_DECREF(plain);
        return result;
    }
    lock_manager *holder = self->joined == NULL ? self : (lock_manager *)self->joined;
    PyObject *result = Py_NewRef(Py_None);
    if (holder->lock != NULL) {
        Py_SETREF(result, PyObject_CallMethod(holder->lock, "release", NULL));
    }
    else if (holder->converting) {
        holder->left++;
    }
    else if (holder->count > 0 && --holder->count == 0 && take_out(state, holder) != RET_OK) {
        Py_CLEAR(result);
    }
    Py_CLEAR(self->joined);
    if (holder == self && self->count == 0) {
        Py_CLEAR(self->lock);
    }
    if (state != NULL && state->shortcuts.module_locks != NULL && PyDict_GET_SIZE(state->shortcuts.module_locks) == 0
        && session_serves(state->session)) {
        image_rest(&state->session->image);
    }
    return result;
}

static PyObject *
manager_exit(PyObject *object, PyObject *const *arguments, Py_ssize_t count)
{
    lock_manager *self = (lock_manager *)object;
    PyObject *result = leave(object, self, arguments, count);
    loader_state *state = state_of(object);
    if (result != NULL && state != NULL && !state->patterns.tried && PyUnicode_Check(self->name)
        && PyUnicode_GET_LENGTH(self->name) == (Py_ssize_t)strlen("re._compiler")
        && PyUnicode_CompareWithASCIIString(self->name, "re._compiler") == 0) {
        patterns_install(state); /* the first patterns may come before the next import */
    }
    return result;
}

/* Marks a real lock as held `count` times by a thread: a number (3.11) or a list as long (3.12 to 3.15). */
static int
hold(PyObject *lock, unsigned long owner, Py_ssize_t count)
{
    PyObject *thread = PyLong_FromUnsignedLong(owner);
    PyObject *before = thread == NULL ? NULL : PyObject_GetAttrString(lock, "count");
    PyObject *holds = NULL;
    if (before != NULL && PyLong_CheckExact(before)) {
        holds = PyLong_FromSsize_t(count);
    }
    else if (before != NULL && PyList_CheckExact(before) && (holds = PyList_New(count)) != NULL) {
        for (Py_ssize_t i = 0; i < count; i++) {
            PyList_SET_ITEM(holds, i, Py_NewRef(Py_True));
        }
    }
    else if (before != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "_ModuleLock is not as expected");
    }
    int result = holds == NULL || PyObject_SetAttrString(lock, "owner", thread) != 0
                         || PyObject_SetAttrString(lock, "count", holds) != 0
                     ? RET_ERROR
                     : RET_OK;
    Py_XDECREF(thread);
    Py_XDECREF(before);
    Py_XDECREF(holds);
    return result;
}

/* What _get_module_lock calls, under the import lock: the real lock. */
static PyObject *
real_lock(lock_manager *self)
{
    loader_state *state = state_of((PyObject *)self);
    if (self->lock != NULL) {
        return Py_NewRef(self->lock);
    }
    if (self->count == 0 || state == NULL || state->shortcuts.module_locks == NULL) {
        Py_RETURN_NONE;
    }
    PyObject *locks = state->shortcuts.module_locks;
    Py_ssize_t count = self->count;
    self->count = 0; /* asked again, it stands for no lock: a new one takes its place, and the keys stay as they are */
    self->converting = true;
    self->left = 0;
    PyObject *lock = PyObject_CallOneArg(state->shortcuts.get_module_lock, self->name);
    self->converting = false;
    count -= self->left;
    if (lock != NULL && count <= 0) {
        return lock; /* nobody holds it any more */
    }
    if (lock == NULL || hold(lock, self->owner, count) != RET_OK) {
        /* no memory: ours stays what it was, and who asked gets the error */
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        Py_XDECREF(lock);
        self->count = count;
        if (count > 0 && PyDict_SetItem(locks, self->name, (PyObject *)self->reference) != 0) {
            PyErr_Clear();
        }
        PyErr_Restore(type, value, traceback);
        return NULL;
    }
    self->lock = lock;
    return Py_NewRef(lock);
}

static PyObject *
reference_call(PyObject *object, PyObject *arguments, PyObject *keywords)
{
    (void)arguments;
    (void)keywords;
    lock_manager *manager = ((lock_reference *)object)->manager;
    if (manager == NULL) {
        Py_RETURN_NONE;
    }
    Py_INCREF(manager);
    PyObject *lock = real_lock(manager);
    Py_DECREF(manager);
    return lock;
}

static void
reference_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyType_Slot reference_slots[] = {
    {Py_tp_call, reference_call},
    {Py_tp_dealloc, reference_dealloc},
    {0, NULL},
};

static PyType_Spec reference_spec = {
    .name = "pycds_auto._loader.lock_reference",
    .basicsize = sizeof(lock_reference),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = reference_slots,
};

/* What isinstance asks: a lock that is held passes for the one that it stands for. */
static PyObject *
manager_class(PyObject *object, void *unused)
{
    (void)unused;
    loader_state *state = state_of(object);
    bool is_lock = ((lock_manager *)object)->count > 0 && state != NULL && state->shortcuts.lock_type != NULL;
    return Py_NewRef(is_lock ? state->shortcuts.lock_type : (PyObject *)Py_TYPE(object));
}

static PyObject *
manager_owner(PyObject *object, void *unused)
{
    (void)unused;
    lock_manager *self = (lock_manager *)object;
    return self->count > 0 ? PyLong_FromUnsignedLong(self->owner) : Py_NewRef(Py_None);
}

static int
manager_set_owner(PyObject *object, PyObject *value, void *unused)
{
    (void)unused;
    unsigned long owner = value == NULL ? 0 : PyLong_AsUnsignedLong(value);
    if (value == NULL || (owner == (unsigned long)-1 && PyErr_Occurred())) {
        PyErr_SetString(PyExc_TypeError, "owner must be a thread's number");
        return -1;
    }
    ((lock_manager *)object)->owner = owner;
    return 0;
}

static int
manager_traverse(PyObject *object, visitproc visit, void *arg)
{
    lock_manager *self = (lock_manager *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->name);
    Py_VISIT(self->lock);
    Py_VISIT(self->joined);
    Py_VISIT(self->plain);
    return 0;
}

static int
manager_clear(PyObject *object)
{
    lock_manager *self = (lock_manager *)object;
    loader_state *state = state_of(object);
    if (state != NULL && state->shortcuts.entered == self->name) {
        state->shortcuts.entered = NULL;
    }
    if (self->reference != NULL) { /* held to the end, for the reason above */
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        if (take_out(state, self) != RET_OK) {
            PyErr_Clear();
        }
        PyErr_Restore(type, value, traceback);
        self->reference->manager = NULL;
        Py_CLEAR(self->reference);
    }
    Py_CLEAR(self->name);
    Py_CLEAR(self->lock);
    Py_CLEAR(self->joined);
    Py_CLEAR(self->plain);
    return 0;
}

static void
manager_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    manager_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef manager_methods[] = {
    {MANAGER_ENTER, manager_enter, METH_NOARGS, NULL},
    {MANAGER_EXIT, (PyCFunction)(void (*)(void))manager_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef manager_attributes[] = {
    {"__class__", manager_class, NULL, NULL, NULL},
    {"owner", manager_owner, manager_set_owner, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot manager_slots[] = {
    {Py_tp_new, manager_new},           {Py_tp_methods, manager_methods}, {Py_tp_getset, manager_attributes},
    {Py_tp_traverse, manager_traverse}, {Py_tp_clear, manager_clear},     {Py_tp_dealloc, manager_dealloc},
    {0, NULL},
};

static PyType_Spec manager_spec = {
    .name = "_frozen_importlib." MANAGER_NAME,
    .basicsize = sizeof(lock_manager),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = manager_slots,
};

/* ---- a new module's attributes ---- */

/* A class whose attributes are what they were at installation? */
static bool
type_is_unchanged(const struct guarded_type *guarded)
{
    return guarded->checked_tag != 0 && guarded->type->tp_version_tag == guarded->checked_tag;
}

bool
shortcuts_know_specs(const loader_state *state)
{
    return state->shortcuts.installed && type_is_unchanged(&state->shortcuts.spec_type);
}

/* An attribute that a ModuleSpec has of its own; NULL without an exception if it hasn't. */
static PyObject *
spec_value(PyObject *spec, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(spec, name);
    if (value == NULL) {
        PyErr_Clear();
    }
    return value;
}

/* Is there nothing in a module's dictionary but the five attributes that PyModule_New gives it, all but its name
   None? */
static bool
is_untouched_module(PyObject *dictionary, const struct shortcut_strings *names)
{
    PyObject *name = PyDict_GetItemWithError(dictionary, names->dunder_name);
    bool untouched = PyDict_GET_SIZE(dictionary) == 5 && name != NULL && name != Py_None
                     && PyDict_GetItemWithError(dictionary, names->dunder_loader) == Py_None
                     && PyDict_GetItemWithError(dictionary, names->dunder_package) == Py_None
                     && PyDict_GetItemWithError(dictionary, names->dunder_spec) == Py_None;
    PyErr_Clear();
    return untouched;
}

/* spec.parent: the name of a package, what precedes the last dot of another module. New reference. */
static PyObject *
parent_of(PyObject *name, PyObject *locations)
{
    if (locations != Py_None) {
        return Py_NewRef(name);
    }
    Py_ssize_t length = PyUnicode_GET_LENGTH(name);
    Py_ssize_t dot = PyUnicode_FindChar(name, '.', 0, length, -1);
    return dot == -2 ? NULL : PyUnicode_Substring(name, 0, dot < 0 ? 0 : dot);
}

/* As importlib._bootstrap._init_module_attrs, in its order, for a new module of our loader. 1: done; 0: not that case,
   nothing was done; -1: exception. */
static int
init_attributes(loader_state *state, PyObject *spec, PyObject *module)
{
    const struct shortcut_strings *names = &state->shortcuts.strings;
    if ((PyObject *)Py_TYPE(spec) != state->module_spec || !PyModule_CheckExact(module)
        || !type_is_unchanged(&state->shortcuts.spec_type)) {
        return 0;
    }
    PyObject *dictionary = PyModule_GetDict(module);
    PyObject *name = spec_value(spec, state->strings.name), *loader = spec_value(spec, state->strings.loader);
    PyObject *locations = spec_value(spec, state->strings.locations), *origin = spec_value(spec, state->strings.origin);
    /* ModuleSpec.cached, which finds it out when it is first asked for; modules of 3.15 have no __cached__ */
    PyObject *cached = NATIVE_SPECS_GET_CACHED ? spec_value(spec, state->strings.cached) : Py_NewRef(Py_None);
    bool found_out = NATIVE_SPECS_GET_CACHED && cached == Py_None && origin != NULL && PyUnicode_CheckExact(origin);
    if (found_out) {
        Py_XSETREF(cached, finder_cached_path(state, origin));
    }
    PyObject *has_location = spec_value(spec, state->strings.set_fileattr);
    int result = 0;
    if (name != NULL && loader != NULL && locations != NULL && origin != NULL && cached != NULL
        && PyUnicode_CheckExact(name) && (PyObject *)Py_TYPE(loader) == state->loader_type
        && PyUnicode_CheckExact(origin) && PyUnicode_CheckExact(cached) == NATIVE_SPECS_GET_CACHED
        && has_location == Py_True && is_untouched_module(dictionary, names)) {
        PyObject *parent = parent_of(name, locations);
        result = parent == NULL || PyDict_SetItem(dictionary, names->dunder_loader, loader) != 0
                         || PyDict_SetItem(dictionary, names->dunder_package, parent) != 0
                         || PyDict_SetItem(dictionary, names->dunder_spec, spec) != 0
                         || (locations != Py_None && PyDict_SetItem(dictionary, names->dunder_path, locations) != 0)
                         || PyDict_SetItem(dictionary, names->dunder_file, origin) != 0
                         || (found_out && PyObject_SetAttr(spec, state->strings.cached, cached) != 0)
                         || (NATIVE_SPECS_GET_CACHED
                             && PyDict_SetItem(dictionary, names->dunder_cached, cached) != 0)
                     ? -1
                     : 1;
        Py_XDECREF(parent);
    }
    Py_XDECREF(name);
    Py_XDECREF(loader);
    Py_XDECREF(locations);
    Py_XDECREF(origin);
    Py_XDECREF(cached);
    Py_XDECREF(has_location);
    return result;
}

/* What a shortcut replaced, called with the same arguments. */
static PyObject *
call_plain(PyObject *plain, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    if (plain == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "pycds_auto._loader was cleared");
        return NULL;
    }
    return PyObject_Vectorcall(plain, arguments, (size_t)count, keywords);
}

static PyObject *
init_module_attrs(loader_state *state, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    /* importlib.util.module_from_spec comes here, too, without an import that would have stepped aside */
    if (count == 2 && keywords == NULL && state->shortcuts.installed && !import_is_observed(state)) {
        int done = init_attributes(state, arguments[0], arguments[1]);
        if (done != 0) {
            return done < 0 ? NULL : Py_NewRef(arguments[1]);
        }
    }
    return call_plain(state->shortcuts.plain_init_module_attrs, arguments, count, keywords);
}

static const struct stand_in_definition init_definition = {
    "_frozen_importlib", "_init_module_attrs", "(spec, module, *, override=False)", init_module_attrs};

/* ---- asking finders ---- */

/* Our finder, if what precedes it in sys.meta_path are the finders of built-in and frozen modules, as the interpreter
   made them, and such as certainly have no module of that name; else NULL. Borrowed. *last_but_one: only one follows
   it. */
static PyObject *
own_finder(loader_state *state, PyObject *name, PyObject *path, bool *last_but_one)
{
    PyObject *finders = system_object(state, state->strings.meta_path);
    if (finders == NULL || !PyList_CheckExact(finders)) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(finders); i++) {
        PyObject *finder = PyList_GET_ITEM(finders, i);
        if ((PyObject *)Py_TYPE(finder) == state->finder_type) {
            *last_but_one = i + 2 == PyList_GET_SIZE(finders);
            return finder;
        }
        bool known = false;
        for (int j = 0; j < SHORTCUT_FINDERS; j++) {
            const struct guarded_type *guarded = &state->shortcuts.finder_types[j];
            known = known || (finder == (PyObject *)guarded->type && type_is_unchanged(guarded));
        }
        if (!known && !foreign_finder_declines(state, finder, name, path)) {
            return NULL;
        }
    }
    return NULL;
}

/* Is a module of that name built in or frozen? -1: exception. */
static int
is_internal(loader_state *state, PyObject *name)
{
    PyObject *answer = PyObject_CallOneArg(state->shortcuts.is_builtin, name);
    int builtin = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    if (builtin != 0) {
        return builtin;
    }
    answer = PyObject_CallOneArg(state->shortcuts.find_frozen, name);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : answer != Py_None;
}

/* What a module of that name in sys.modules says: a finder may have imported it. New reference. */
static PyObject *
spec_of_loaded(PyObject *module, PyObject *found, PyObject *dunder_spec)
{
    PyObject *spec = PyObject_GetAttr(module, dunder_spec);
    if (spec == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        return Py_NewRef(found);
    }
    if (spec == Py_None) {
        Py_DECREF(spec);
        return Py_NewRef(found);
    }
    return spec;
}

/* As importlib._bootstrap._find_spec, for a module that our finder finds, or that certainly nobody has. NULL without an
   exception: not that case. */
static PyObject *
find_archived(loader_state *state, PyObject *const *arguments)
{
    PyObject *name = arguments[0], *modules = system_object(state, state->strings.modules);
    bool last_but_one = false, absent = false; /* the one that follows is PathFinder: our finder sees to that */
    /* Between _find_and_load's taking of the lock and this there was nothing: it is not importlib.util that asks. */
    bool directly = state->shortcuts.entered == name && state->shortcuts.entered_by == PyThread_get_thread_ident();
    state->shortcuts.entered = NULL;
    PyObject *finder = PyUnicode_CheckExact(name) ? own_finder(state, name, arguments[1], &last_but_one) : NULL;
    if (finder == NULL || modules == NULL || !PyDict_CheckExact(modules)
        || PyDict_GetItemWithError(modules, name) != NULL || PyErr_Occurred() || is_internal(state, name) != 0) {
        PyErr_Clear(); /* what is asked instead meets the same, and says so */
        return NULL;
    }
    Py_INCREF(finder);
    PyObject *locked = PyObject_CallNoArgs(state->shortcuts.acquire_lock);
    PyObject *spec =
        locked == NULL ? NULL : finder_find(state, finder, name, arguments[1], directly, last_but_one ? &absent : NULL);
    if (locked != NULL) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        Py_DECREF(locked);
        Py_XDECREF(PyObject_CallNoArgs(state->shortcuts.release_lock));
        PyErr_Restore(type, value, traceback);
    }
    Py_DECREF(finder);
    if (spec == Py_None) {
        Py_DECREF(spec);
        return absent ? Py_NewRef(Py_None) : NULL;
    }
    PyObject *module = spec == NULL ? NULL : PyDict_GetItemWithError(modules, name);
    if (module != NULL) {
        Py_INCREF(module);
        Py_SETREF(spec, spec_of_loaded(module, spec, state->shortcuts.strings.dunder_spec));
        Py_DECREF(module);
    }
    return spec;
}

static PyObject *
find_spec(loader_state *state, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    if (count == 2 && keywords == NULL && state->shortcuts.installed && !import_is_observed(state)) {
        PyObject *spec = find_archived(state, arguments);
        if (spec != NULL || PyErr_Occurred()) {
            return spec;
        }
    }
    return call_plain(state->shortcuts.plain_find_spec, arguments, count, keywords);
}

static const struct stand_in_definition find_definition = {
    "_frozen_importlib", "_find_spec", "(name, path, target=None)", find_spec};

/* ---- from package import names ---- */

/* Is every name of a fromlist in the dictionary of a module, so that hasattr() finds it without asking anything of the
   program's? Asked for a lazy import, it imports. */
static bool
has_all_names(PyObject *module, PyObject *names)
{
    if (!PyModule_CheckExact(module) || !PyTuple_CheckExact(names)) {
        return false;
    }
    PyObject *dictionary = PyModule_GetDict(module);
    bool all = true;
    for (Py_ssize_t i = 0; all && i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        PyObject *value = PyUnicode_CheckExact(name) && PyUnicode_CompareWithASCIIString(name, "*") != 0
                              ? PyDict_GetItemWithError(dictionary, name)
                              : NULL;
        all = value != NULL && !native_is_lazy(value);
    }
    PyErr_Clear();
    return all;
}

/* importlib._bootstrap._handle_fromlist imports the submodules that are not there yet; mostly all is there. */
static PyObject *
handle_fromlist(loader_state *state, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    if (count == 3 && keywords == NULL && state->shortcuts.installed && has_all_names(arguments[0], arguments[1])
        && !import_is_observed(state) && importlib_is_untouched(state)) {
        return Py_NewRef(arguments[0]);
    }
    leave_call();
    PyObject *result = call_plain(state->shortcuts.plain_handle_fromlist, arguments, count, keywords);
    if (!enter_call()) {
        Py_CLEAR(result);
    }
    return result;
}

static const struct stand_in_definition fromlist_definition = {
    "_frozen_importlib", "_handle_fromlist", "(module, fromlist, import_, *, recursive=False)", handle_fromlist};

/* ---- putting them in place ---- */

enum shortcut { SHORTCUT_MANAGER, SHORTCUT_INIT, SHORTCUT_FIND, SHORTCUT_FROMLIST, SHORTCUTS };

static const char *const replaced_names[SHORTCUTS] = {
    MANAGER_NAME, "_init_module_attrs", "_find_spec", "_handle_fromlist"};

static PyObject **
plain_slot(loader_state *state, enum shortcut which)
{
    PyObject **slots[SHORTCUTS] = {
        &state->shortcuts.plain_manager, &state->shortcuts.plain_init_module_attrs, &state->shortcuts.plain_find_spec,
        &state->shortcuts.plain_handle_fromlist};
    return slots[which];
}

/* Is it a function that the interpreter brought, in importlib._bootstrap? */
static bool
is_bootstrap_function(PyObject *function)
{
    return function != NULL && PyFunction_Check(function)
           && PyUnicode_CompareWithASCIIString(
                  ((PyCodeObject *)PyFunction_GET_CODE(function))->co_filename, BOOTSTRAP_FILE)
                  == 0;
}

/* Takes note of a class and the state of its attributes. */
static bool
take_type(struct guarded_type *guarded, PyObject *globals, const char *name)
{
    PyObject *type = PyDict_GetItemString(globals, name);
    if (type == NULL || !PyType_Check(type)) {
        return false;
    }
    PyObject *looked_up = PyObject_GetAttrString(type, "__doc__"); /* gives the class a tag if it has none */
    Py_XDECREF(looked_up);
    guarded->type = (PyTypeObject *)Py_NewRef(type);
    guarded->checked_tag = guarded->type->tp_version_tag;
    return looked_up != NULL && guarded->checked_tag != 0;
}

static bool
take_function(PyObject **to, PyObject *globals, const char *name)
{
    PyObject *function = PyDict_GetItemString(globals, name);
    *to = Py_XNewRef(function);
    return is_bootstrap_function(function);
}

static bool
intern(PyObject **to, const char *text)
{
    *to = PyUnicode_InternFromString(text);
    return *to != NULL;
}

/* Takes the functions of _thread that _ModuleLock uses, if they are the interpreter's. */
static bool
take_threads(struct shortcuts *all, PyObject *globals)
{
    static const char *const names[SHORTCUT_THREAD_FUNCTIONS] = {"get_ident", "allocate_lock", "RLock"};
    all->thread = Py_XNewRef(PyDict_GetItemString(globals, "_thread"));
    all->lock_type = Py_XNewRef(PyDict_GetItemString(globals, "_ModuleLock"));
    if (all->thread == NULL || !PyModule_CheckExact(all->thread) || all->lock_type == NULL
        || !intern(&all->strings.thread, "_thread")) {
        return false;
    }
    for (int i = 0; i < SHORTCUT_THREAD_FUNCTIONS; i++) {
        PyObject *found = PyDict_GetItemString(PyModule_GetDict(all->thread), names[i]);
        all->of_thread[i] = Py_XNewRef(found);
        bool expected =
            found != NULL && intern(&all->strings.of_thread[i], names[i])
            && (PyCFunction_CheckExact(found) ? PyCFunction_GET_SELF(found) == all->thread
                                              : PyType_Check(found) && ((PyTypeObject *)found)->tp_dictoffset == 0);
        if (!expected) {
            return false;
        }
    }
    return PyCFunction_CheckExact(all->of_thread[0]);
}

/* Takes what ours stands in for on the way of a lock. */
static bool
take_manager(struct shortcuts *all, PyObject *globals)
{
    const char *name = replaced_names[SHORTCUT_MANAGER];
#if SHORTCUTS_STAND_IN_FOR_LOCKS
    PyObject *caller = PyDict_GetItemString(globals, "_find_and_load");
    if (!is_bootstrap_function(caller)) {
        return false;
    }
    all->find_and_load = Py_NewRef(PyFunction_GET_CODE(caller));
    return take_function(&all->plain_manager, globals, name);
#else
    PyObject *manager = PyDict_GetItemString(globals, name);
    if (manager == NULL || !PyType_Check(manager)) {
        return false;
    }
    all->plain_manager = Py_NewRef(manager);
    PyObject *enter = PyObject_GetAttrString(manager, MANAGER_ENTER);
    bool expected = is_bootstrap_function(enter);
    Py_XDECREF(enter);
    return expected;
#endif
}

/* Is what ours stand in for as CPython 3.11 to 3.15 have it? Fills the state. */
static bool
take_all(loader_state *state, PyObject *globals)
{
    struct shortcuts *all = &state->shortcuts;
    struct shortcut_strings *names = &all->strings;
    PyObject *locks = PyDict_GetItemString(globals, "_module_locks");
    PyObject *imp = PyDict_GetItemString(globals, "_imp");
    if (locks == NULL || !PyDict_CheckExact(locks) || imp == NULL
        || !intern(&names->dunder_name, "__name__") || !intern(&names->dunder_loader, "__loader__")
        || !intern(&names->dunder_package, "__package__") || !intern(&names->dunder_spec, "__spec__")
        || !intern(&names->dunder_path, "__path__") || !intern(&names->dunder_file, "__file__")
        || !intern(&names->dunder_cached, "__cached__")) {
        return false;
    }
    if (!take_threads(all, globals)) {
        return false;
    }
    all->module_locks = Py_NewRef(locks);
    all->reference_type = (PyTypeObject *)PyType_FromModuleAndSpec(state->module, &reference_spec, NULL);
    return all->reference_type != NULL && take_manager(all, globals)
           && take_function(&all->plain_init_module_attrs, globals, replaced_names[SHORTCUT_INIT])
           && take_function(&all->plain_find_spec, globals, replaced_names[SHORTCUT_FIND])
           && take_function(&all->plain_handle_fromlist, globals, replaced_names[SHORTCUT_FROMLIST])
           && take_function(&all->get_module_lock, globals, "_get_module_lock")
           && take_type(&all->spec_type, globals, "ModuleSpec")
           && (PyObject *)all->spec_type.type == state->module_spec
           && take_type(&all->finder_types[0], globals, "BuiltinImporter")
           && take_type(&all->finder_types[1], globals, "FrozenImporter")
           && (all->is_builtin = PyObject_GetAttrString(imp, "is_builtin")) != NULL
           && (all->find_frozen = PyObject_GetAttrString(imp, "find_frozen")) != NULL
           && (all->acquire_lock = PyObject_GetAttrString(imp, "acquire_lock")) != NULL
           && (all->release_lock = PyObject_GetAttrString(imp, "release_lock")) != NULL
           && (all->lock_held = PyObject_GetAttrString(imp, "lock_held")) != NULL;
}

/* Can a real lock be marked as held? */
static bool
locks_are_as_expected(PyObject *globals)
{
    PyObject *type = PyDict_GetItemString(globals, "_ModuleLock");
    PyObject *lock = type == NULL ? NULL : PyObject_CallFunction(type, "s", "");
    PyObject *released = lock == NULL || hold(lock, PyThread_get_thread_ident(), 1) != RET_OK
                             ? NULL
                             : PyObject_CallMethod(lock, "release", NULL);
    bool expected = released != NULL;
    Py_XDECREF(released);
    Py_XDECREF(lock);
    return expected;
}

static bool
replace(loader_state *state, PyObject *globals)
{
    PyObject *shortcuts[SHORTCUTS] = {
        PyType_FromModuleAndSpec(state->module, &manager_spec, NULL), stand_in_new(state, &init_definition),
        stand_in_new(state, &find_definition), stand_in_new(state, &fromlist_definition)};
    bool complete = true;
    for (int i = 0; i < SHORTCUTS; i++) {
        complete = complete && shortcuts[i] != NULL;
    }
    for (int i = 0; i < SHORTCUTS; i++) {
        complete = complete && PyDict_SetItemString(globals, replaced_names[i], shortcuts[i]) == 0;
        Py_XDECREF(shortcuts[i]);
    }
    return complete;
}

bool
shortcuts_put_in_place(loader_state *state, PyObject *value)
{
    if (PyType_Check(value)) {
        return ((PyTypeObject *)value)->tp_new == manager_new;
    }
    return stand_in_is(state, value, &init_definition) || stand_in_is(state, value, &find_definition)
           || stand_in_is(state, value, &fromlist_definition);
}

/* Puts what was replaced into a dictionary, where ours stand there. RET_ERROR with an exception. */
static int
put_plain(loader_state *state, PyObject *dictionary)
{
    int result = RET_OK;
    for (int i = 0; i < SHORTCUTS; i++) {
        PyObject *plain = *plain_slot(state, i);
        PyObject *now = PyDict_GetItemString(dictionary, replaced_names[i]);
        bool ours = now != NULL && shortcuts_put_in_place(state, now);
        if (plain != NULL && ours && PyDict_SetItemString(dictionary, replaced_names[i], plain) != 0) {
            result = RET_ERROR;
        }
    }
    return result;
}

int
shortcuts_undo(loader_state *state, PyObject *module, PyObject *copy)
{
    return state->shortcuts.globals == PyModule_GetDict(module) ? put_plain(state, copy) : RET_OK;
}

static void
put_back(loader_state *state)
{
    if (state->shortcuts.globals != NULL && put_plain(state, state->shortcuts.globals) != RET_OK) {
        PyErr_Clear();
    }
}

/* Until the next hit, that is, while something looks on: it would miss the frames of what was replaced. */
static void
step_aside(loader_state *state)
{
    put_back(state);
    state->shortcuts.aside = true;
}

/* Are all that ours replaced in their places? */
static bool
is_all_plain(loader_state *state)
{
    bool plain = true;
    for (int i = 0; i < SHORTCUTS; i++) {
        plain = plain && PyDict_GetItemString(state->shortcuts.globals, replaced_names[i]) == *plain_slot(state, i);
    }
    return plain;
}

void
shortcuts_install(loader_state *state)
{
    struct shortcuts *all = &state->shortcuts;
    if (all->aside && all->installed) {
        all->aside = false;
        /* not if a program put its own there meanwhile. What is kept stays: managers that are in use need it */
        all->installed = is_all_plain(state);
        if (all->installed && !replace(state, all->globals)) {
            put_back(state);
            all->installed = false;
        }
        PyErr_Clear();
    }
    if (all->tried || state->session->settings.skipped & ACCELERATION_IMPORTLIB) {
        return;
    }
    all->tried = true;
    PyObject *bootstrap = loaded_module("_frozen_importlib");
    all->globals = bootstrap == NULL ? NULL : Py_XNewRef(PyModule_GetDict(bootstrap));
    Py_XDECREF(bootstrap);
    if (all->globals != NULL && take_all(state, all->globals) && locks_are_as_expected(all->globals)) {
        all->installed = true;
        if (!replace(state, all->globals)) {
            shortcuts_clear(state);
        }
    }
    PyErr_Clear();
}

#define FOR_EACH_SHORTCUT_OBJECT(state, DO)                                                                            \
    DO((state)->shortcuts.globals);                                                                                    \
    DO((state)->shortcuts.plain_manager);                                                                              \
    DO((state)->shortcuts.plain_init_module_attrs);                                                                    \
    DO((state)->shortcuts.plain_find_spec);                                                                            \
    DO((state)->shortcuts.plain_handle_fromlist);                                                                      \
    DO((state)->shortcuts.reference_type);                                                                             \
    DO((state)->shortcuts.find_and_load);                                                                              \
    DO((state)->shortcuts.get_module_lock);                                                                            \
    DO((state)->shortcuts.module_locks);                                                                               \
    DO((state)->shortcuts.lock_type);                                                                                  \
    DO((state)->shortcuts.thread);                                                                                     \
    DO((state)->shortcuts.of_thread[0]);                                                                               \
    DO((state)->shortcuts.of_thread[1]);                                                                               \
    DO((state)->shortcuts.of_thread[2]);                                                                               \
    DO((state)->shortcuts.is_builtin);                                                                                 \
    DO((state)->shortcuts.find_frozen);                                                                                \
    DO((state)->shortcuts.acquire_lock);                                                                               \
    DO((state)->shortcuts.lock_held);                                                                                  \
    DO((state)->shortcuts.release_lock);                                                                               \
    DO((state)->shortcuts.foreign[0].code);                                                                            \
    DO((state)->shortcuts.foreign[1].code);                                                                            \
    DO((state)->shortcuts.foreign[2].code);                                                                            \
    DO((state)->shortcuts.foreign[3].code);                                                                            \
    DO((state)->shortcuts.spec_type.type);                                                                             \
    DO((state)->shortcuts.finder_types[0].type);                                                                       \
    DO((state)->shortcuts.finder_types[1].type);                                                                       \
    DO((state)->shortcuts.strings.thread);                                                                             \
    DO((state)->shortcuts.strings.of_thread[0]);                                                                       \
    DO((state)->shortcuts.strings.of_thread[1]);                                                                       \
    DO((state)->shortcuts.strings.of_thread[2]);                                                                       \
    DO((state)->shortcuts.strings.dunder_name);                                                                        \
    DO((state)->shortcuts.strings.dunder_loader);                                                                      \
    DO((state)->shortcuts.strings.dunder_package);                                                                     \
    DO((state)->shortcuts.strings.dunder_spec);                                                                        \
    DO((state)->shortcuts.strings.dunder_path);                                                                        \
    DO((state)->shortcuts.strings.dunder_file);                                                                        \
    DO((state)->shortcuts.strings.dunder_cached);

void
shortcuts_clear(loader_state *state)
{
    if (state->shortcuts.installed) {
        put_back(state);
    }
    state->shortcuts.installed = false;
    FOR_EACH_SHORTCUT_OBJECT(state, Py_CLEAR)
}

int
shortcuts_traverse(loader_state *state, visitproc visit, void *arg)
{
    FOR_EACH_SHORTCUT_OBJECT(state, Py_VISIT)
    return 0;
}
