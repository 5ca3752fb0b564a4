/* Records from memory-mapped files into a batch, as fast as memory goes, and alive when a file shrinks underneath.
 *
 * Two things decide the speed. Streaming stores: the batch is written once and read later, so its old lines need not
 * come into the cache first. Several records at a time: a record begins at a random page, where address translation
 * and prefetchers start cold; the waits of eight such starts overlap.
 *
 * Touching a mapped page behind the end of a truncated file raises SIGBUS. While a gather runs, a handler catches it
 * for the threads that gather, and the row is reported; every other SIGBUS goes to the handler that was there before.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#define STREAMING 1
#else
#define STREAMING 0
#endif

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

enum {
    AT_ONCE = 8,           /* records copied side by side */
    LINE = 64,             /* bytes of a cache line */
    STEP = 256,            /* bytes of one record before the next has its turn */
    AHEAD = 512,           /* bytes between the copy and its prefetch */
    SMALLEST_STREAMED = 2048, /* smaller fields fit caches, and their rows share lines */
    MOST_FIELDS = 16,
};

typedef struct {
    Py_ssize_t offset;
    Py_ssize_t size;
    Py_buffer destination;
} Field;

/* The handler. */

static pthread_mutex_t handler_lock = PTHREAD_MUTEX_INITIALIZER;
static int handler_users = 0;
static struct sigaction handler_before;
static __thread sigjmp_buf *volatile way_back = NULL;

static void on_bus_error(int number, siginfo_t *info, void *context) {
    if (way_back != NULL)
        siglongjmp(*way_back, 1);
    if (handler_before.sa_flags & SA_SIGINFO)
        handler_before.sa_sigaction(number, info, context);
    else if (handler_before.sa_handler != SIG_DFL && handler_before.sa_handler != SIG_IGN)
        handler_before.sa_handler(number);
    else
        signal(number, SIG_DFL); /* returning touches the page again, and the default ends the process */
}

static void take_handler(void) {
    pthread_mutex_lock(&handler_lock);
    if (handler_users++ == 0) {
        struct sigaction ours = {0};
        ours.sa_sigaction = on_bus_error;
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigemptyset(&ours.sa_mask);
        sigaction(SIGBUS, &ours, &handler_before);
    }
    pthread_mutex_unlock(&handler_lock);
}

static void give_handler_back(void) {
    pthread_mutex_lock(&handler_lock);
    if (--handler_users == 0)
        sigaction(SIGBUS, &handler_before, NULL);
    pthread_mutex_unlock(&handler_lock);
}

/* The copy. */

#if STREAMING
static inline void stream_step(uint8_t *to, const uint8_t *from) {
    for (int line = 0; line < STEP; line += LINE)
        _mm_prefetch((const char *)from + AHEAD + line, _MM_HINT_NTA);
    for (int line = 0; line < STEP; line += LINE) {
        __m128i a = _mm_loadu_si128((const __m128i *)(from + line));
        __m128i b = _mm_loadu_si128((const __m128i *)(from + line + 16));
        __m128i c = _mm_loadu_si128((const __m128i *)(from + line + 32));
        __m128i d = _mm_loadu_si128((const __m128i *)(from + line + 48));
        _mm_stream_si128((__m128i *)(to + line), a);
        _mm_stream_si128((__m128i *)(to + line + 16), b);
        _mm_stream_si128((__m128i *)(to + line + 32), c);
        _mm_stream_si128((__m128i *)(to + line + 48), d);
    }
}

static void copy_rows(const uint64_t *sources, int rows, Py_ssize_t offset, Py_ssize_t size, uint8_t *to) {
    const uint8_t *from[AT_ONCE];
    uint8_t *at[AT_ONCE];
    if (size < SMALLEST_STREAMED) {
        for (int row = 0; row < rows; row++)
            memcpy(to + row * size, (const uint8_t *)(uintptr_t)sources[row] + offset, size);
        return;
    }
    for (int row = 0; row < rows; row++) {
        from[row] = (const uint8_t *)(uintptr_t)sources[row] + offset;
        at[row] = to + row * size;
        memcpy(at[row], from[row], LINE);
        Py_ssize_t skipped = -(uintptr_t)at[row] & (LINE - 1);
        from[row] += skipped;
        at[row] += skipped;
    }
    for (Py_ssize_t step = (size - LINE) / STEP; step > 0; step--)
        for (int row = 0; row < rows; row++) {
            stream_step(at[row], from[row]);
            from[row] += STEP;
            at[row] += STEP;
        }
    for (int row = 0; row < rows; row++)
        memcpy(at[row], from[row], to + (row + 1) * size - at[row]);
}
#else
static void copy_rows(const uint64_t *sources, int rows, Py_ssize_t offset, Py_ssize_t size, uint8_t *to) {
    for (int row = 0; row < rows; row++)
        memcpy(to + row * size, (const uint8_t *)(uintptr_t)sources[row] + offset, size);
}
#endif

/* Returns the first row whose source could not be read, or -1. */
static Py_ssize_t copy_all(const uint64_t *sources, Py_ssize_t count, const Field *fields, int num_fields) {
    sigjmp_buf here;
    volatile Py_ssize_t row = 0;
    volatile Py_ssize_t failed = -1;
    take_handler();
    if (sigsetjmp(here, 1) == 0) {
        way_back = &here;
        for (row = 0; row < count; row += AT_ONCE) {
            int rows = count - row < AT_ONCE ? (int)(count - row) : AT_ONCE;
            for (int field = 0; field < num_fields; field++)
                copy_rows(sources + row, rows, fields[field].offset, fields[field].size,
                          (uint8_t *)fields[field].destination.buf + row * fields[field].size);
        }
    } else {
        failed = row;
    }
    way_back = NULL;
#if STREAMING
    _mm_sfence();
#endif
    give_handler_back();
    return failed;
}

PyDoc_STRVAR(gather_doc,
"gather(sources, fields) -> int\n\n"
"Copy records from memory into batch buffers; the interpreter runs on meanwhile.\n\n"
"Args:\n"
"    sources: (n,) uint64 addresses of records that stay mapped during the call.\n"
"    fields: Tuples (offset in the record, size in bytes, writable buffer of n * size bytes), at most 16.\n\n"
"Returns: -1, or a number not above the first row that could not be read and at most seven below it.\n"
"Raises: ValueError for buffers of other sizes.");

static PyObject *gather(PyObject *module, PyObject *arguments) {
    Py_buffer sources;
    PyObject *list;
    Field fields[MOST_FIELDS];
    int num_fields = 0;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*O!", &sources, &PyTuple_Type, &list))
        return NULL;
    Py_ssize_t count = sources.len / (Py_ssize_t)sizeof(uint64_t);
    if (PyTuple_GET_SIZE(list) > MOST_FIELDS || sources.len % sizeof(uint64_t)) {
        PyErr_Format(PyExc_ValueError, "wanted whole addresses and at most %d fields, got %zd bytes and %zd fields",
                     MOST_FIELDS, sources.len, PyTuple_GET_SIZE(list));
        goto done;
    }
    for (; num_fields < PyTuple_GET_SIZE(list); num_fields++) {
        Field *field = &fields[num_fields];
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(list, num_fields), "nnw*", &field->offset, &field->size,
                              &field->destination))
            goto done;
        if (field->size < 0 || field->offset < 0 || field->destination.len != count * field->size) {
            PyErr_Format(PyExc_ValueError, "field %d: %zd records of %zd bytes do not fill a buffer of %zd bytes",
                         num_fields, count, field->size, field->destination.len);
            num_fields++;
            goto done;
        }
    }
    Py_ssize_t failed;
    Py_BEGIN_ALLOW_THREADS
    failed = copy_all(sources.buf, count, fields, num_fields);
    Py_END_ALLOW_THREADS
    result = PyLong_FromSsize_t(failed);
done:
    while (num_fields > 0)
        PyBuffer_Release(&fields[--num_fields].destination);
    PyBuffer_Release(&sources);
    return result;
}

PyDoc_STRVAR(map_file_doc,
"map_file(descriptor, size) -> int\n\n"
"Map the first bytes of a file read-only, in huge pages where the file system has them. Returns the address.\n\n"
"Raises: OSError.");

static PyObject *map_file(PyObject *module, PyObject *arguments) {
    int descriptor;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(arguments, "in", &descriptor, &size))
        return NULL;
    void *address = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, descriptor, 0);
    if (address == MAP_FAILED)
        return PyErr_SetFromErrno(PyExc_OSError);
#ifdef MADV_HUGEPAGE
    madvise(address, (size_t)size, MADV_HUGEPAGE); /* advice: where it cannot be followed nothing is lost */
#endif
    return PyLong_FromVoidPtr(address);
}

PyDoc_STRVAR(unmap_doc, "unmap(address, size)\n\nUndo `map_file`. Raises: OSError.");

static PyObject *unmap(PyObject *module, PyObject *arguments) {
    unsigned long long address;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(arguments, "Kn", &address, &size))
        return NULL;
    if (munmap((void *)(uintptr_t)address, (size_t)size))
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(populate_doc,
"populate(address, size) -> bool\n\n"
"Read mapped pages and enter them into the page table, so that later touches find them there.\n\n"
"Returns: False where this system cannot do that, or the file has become shorter.");

static PyObject *populate(PyObject *module, PyObject *arguments) {
    unsigned long long address;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(arguments, "Kn", &address, &size))
        return NULL;
    int outcome;
    Py_BEGIN_ALLOW_THREADS
    outcome = madvise((void *)(uintptr_t)address, (size_t)size, MADV_POPULATE_READ);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(outcome == 0);
}

static PyMethodDef methods[] = {
    {"gather", gather, METH_VARARGS, gather_doc},
    {"map_file", map_file, METH_VARARGS, map_file_doc},
    {"unmap", unmap, METH_VARARGS, unmap_doc},
    {"populate", populate, METH_VARARGS, populate_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_gather", "The copies of a stream in C; see gather.py.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__gather(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "STREAMING", STREAMING) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
