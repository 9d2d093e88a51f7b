#include "stand_in.h"

#include "native_layout.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    const struct stand_in_definition *definition;
    PyObject *module; /* owned: ours, whose state it needs */
} stand_in;

static PyObject *
stand_in_vectorcall(PyObject *object, PyObject *const *arguments, size_t count, PyObject *keywords)
{
    stand_in *self = (stand_in *)object;
    loader_state *state = PyModule_GetState(self->module);
    return self->definition->call(state, arguments, PyVectorcall_NARGS(count), keywords);
}

static PyObject *
stand_in_repr(PyObject *object)
{
    return PyUnicode_FromFormat("<built-in function %s>", ((stand_in *)object)->definition->name);
}

static PyObject *
stand_in_name(PyObject *object, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(((stand_in *)object)->definition->name);
}

/* No descriptor for __module__: it would hide the type's own. */
static PyObject *
stand_in_attribute(PyObject *object, PyObject *name)
{
    return PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, "__module__") == 0
               ? PyUnicode_FromString(((stand_in *)object)->definition->module)
               : PyObject_GenericGetAttr(object, name);
}

static PyObject *
stand_in_signature(PyObject *object, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(((stand_in *)object)->definition->signature);
}

static int
stand_in_traverse(PyObject *object, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((stand_in *)object)->module);
    return 0;
}

/* It has no tp_clear: it can be called to the end. The cycle it is in is our module's, whose state gets cleared. */
static void
stand_in_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_CLEAR(((stand_in *)object)->module);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMemberDef stand_in_members[] = {
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(stand_in, vectorcall), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef stand_in_attributes[] = {
    {"__name__", stand_in_name, NULL, NULL, NULL},
    {"__qualname__", stand_in_name, NULL, NULL, NULL},
    {"__text_signature__", stand_in_signature, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot stand_in_slots[] = {
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_repr, stand_in_repr},
    {Py_tp_members, stand_in_members},
    {Py_tp_getset, stand_in_attributes},
    {Py_tp_getattro, stand_in_attribute},
    {Py_tp_traverse, stand_in_traverse},
    {Py_tp_dealloc, stand_in_dealloc},
    {0, NULL},
};

static PyType_Spec stand_in_spec = {
    .name = "pycds_auto._loader.function",
    .basicsize = sizeof(stand_in),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = stand_in_slots,
};

PyObject *
stand_in_new(loader_state *state, const struct stand_in_definition *definition)
{
    if (state->stand_in_type == NULL) {
        state->stand_in_type = (PyTypeObject *)PyType_FromModuleAndSpec(state->module, &stand_in_spec, NULL);
    }
    PyTypeObject *type = state->stand_in_type;
    stand_in *self = type == NULL ? NULL : (stand_in *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->vectorcall = stand_in_vectorcall;
        self->definition = definition;
        self->module = Py_NewRef(state->module);
    }
    return (PyObject *)self;
}

bool
stand_in_is(loader_state *state, PyObject *object, const struct stand_in_definition *definition)
{
    return state->stand_in_type != NULL && Py_TYPE(object) == state->stand_in_type
           && ((stand_in *)object)->definition == definition;
}
