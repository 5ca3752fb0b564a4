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

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#define STREAMING 1
#else
#define STREAMING 0
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
static __thread sigjmp_buf *volatile return_point __attribute__((tls_model("initial-exec"))) = NULL;

static void on_bus_error(int number, siginfo_t *info, void *context) {
    int is_sent = info->si_code <= 0; /* by kill, not by a page */
    if (return_point != NULL && !is_sent)
        siglongjmp(*return_point, 1);
    if (handler_before.sa_flags & SA_SIGINFO)
        handler_before.sa_sigaction(number, info, context);
    else if (handler_before.sa_handler == SIG_IGN && is_sent)
        return;
    else if (handler_before.sa_handler != SIG_DFL && handler_before.sa_handler != SIG_IGN)
        handler_before.sa_handler(number);
    else {
        signal(number, SIG_DFL); /* returning touches the page again, and the default ends the process */
        if (is_sent)
            raise(number);
    }
}

static int is_ours(const struct sigaction *action) {
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == on_bus_error;
}

/* Others may install and remove handlers while we gather: what they left is kept, and ours is never taken for theirs. */
static void take_handler(void) {
    struct sigaction present;
    pthread_mutex_lock(&handler_lock);
    handler_users++;
    sigaction(SIGBUS, NULL, &present);
    if (!is_ours(&present)) {
        struct sigaction ours = {0};
        ours.sa_sigaction = on_bus_error;
        ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigemptyset(&ours.sa_mask);
        handler_before = present;
        sigaction(SIGBUS, &ours, NULL);
    }
    pthread_mutex_unlock(&handler_lock);
}

static void give_handler_back(void) {
    struct sigaction present;
    pthread_mutex_lock(&handler_lock);
    if (--handler_users == 0) {
        sigaction(SIGBUS, NULL, &present);
        if (is_ours(&present))
            sigaction(SIGBUS, &handler_before, NULL);
    }
    pthread_mutex_unlock(&handler_lock);
}

/* The threads that gathered are not in the child, nor is whoever held the lock. */
static void after_fork(void) {
    pthread_mutex_init(&handler_lock, NULL);
    handler_users = 0;
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

/* Where records lie. */

typedef struct {
    const int64_t *rows;    /* (count, 2) sample and view */
    Py_ssize_t count;
    const int64_t *starts;  /* (files + 1) first sample of each file */
    const int64_t *bases;   /* (files) where each is mapped, 0 if it is not */
    Py_ssize_t num_files;
    int64_t num_views, stride, first;
} Places;

enum { ALL_COPIED = -1, NOT_MAPPED = -2, OUT_OF_RANGE = -3 };

static int64_t file_of(const Places *places, int64_t sample) {
    int64_t low = 0, high = places->num_files; /* the file is in [low, high) */
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (places->starts[middle] <= sample)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The address of one record, or NOT_MAPPED or OUT_OF_RANGE. */
static int64_t address_of(const Places *places, Py_ssize_t row) {
    int64_t sample = places->rows[2 * row], view = places->rows[2 * row + 1];
    if (sample < 0 || sample >= places->starts[places->num_files] || view < 0 || view >= places->num_views)
        return OUT_OF_RANGE;
    int64_t file = file_of(places, sample);
    if (places->bases[file] == 0)
        return NOT_MAPPED;
    int64_t record = (sample - places->starts[file]) * places->num_views + view;
    return places->bases[file] + record * places->stride + places->first;
}

/* Returns ALL_COPIED, NOT_MAPPED, OUT_OF_RANGE, or the first of the rows among which one could not be read. */
static Py_ssize_t copy_all(const Places *places, const Field *fields, int num_fields) {
    sigjmp_buf here;
    uint64_t sources[AT_ONCE];
    volatile Py_ssize_t row = 0;
    volatile Py_ssize_t outcome = ALL_COPIED;
    take_handler();
    if (sigsetjmp(here, 1) == 0) {
        return_point = &here;
        for (row = 0; row < places->count && outcome == ALL_COPIED; row += AT_ONCE) {
            int rows = places->count - row < AT_ONCE ? (int)(places->count - row) : AT_ONCE;
            for (int one = 0; one < rows; one++) {
                int64_t address = address_of(places, row + one);
                if (address < 0) {
                    outcome = (Py_ssize_t)address;
                    rows = 0;
                } else
                    sources[one] = (uint64_t)address;
            }
            for (int field = 0; field < num_fields; field++)
                copy_rows(sources, rows, fields[field].offset, fields[field].size,
                          (uint8_t *)fields[field].destination.buf + row * fields[field].size);
        }
    } else {
        outcome = row;
    }
    return_point = NULL;
#if STREAMING
    _mm_sfence();
#endif
    give_handler_back();
    return outcome;
}

static int take_fields(PyObject *list, Py_ssize_t count, Field *fields, int *num_fields) {
    if (PyTuple_GET_SIZE(list) > MOST_FIELDS) {
        PyErr_Format(PyExc_ValueError, "at most %d fields, got %zd", MOST_FIELDS, PyTuple_GET_SIZE(list));
        return -1;
    }
    for (; *num_fields < PyTuple_GET_SIZE(list); (*num_fields)++) {
        Field *field = &fields[*num_fields];
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(list, *num_fields), "nnw*", &field->offset, &field->size,
                              &field->destination))
            return -1;
        if (field->size < 0 || field->offset < 0 || field->destination.len != count * field->size) {
            PyErr_Format(PyExc_ValueError, "field %d: %zd records of %zd bytes do not fill a buffer of %zd bytes",
                         *num_fields, count, field->size, field->destination.len);
            (*num_fields)++;
            return -1;
        }
    }
    return 0;
}

PyDoc_STRVAR(gather_doc,
"gather(rows, starts, bases, num_views, stride, first, fields) -> int\n\n"
"Copy records from mapped files into batch buffers; the interpreter runs on meanwhile.\n\n"
"Args:\n"
"    rows: (n, 2) int64, sample and view numbers.\n"
"    starts: (files + 1,) int64, the first sample of each file, and the number of samples.\n"
"    bases: (files,) int64, where each file is mapped, 0 if it is not; they stay mapped during the call.\n"
"    num_views, stride, first: Record sample * num_views + view lies at byte record * stride + first of its file,\n"
"        samples counted from the beginning of the file.\n"
"    fields: Tuples (offset in the record, size in bytes, writable buffer of n * size bytes), at most 16.\n\n"
"Returns: -1 when all were copied, -2 when a file is not mapped, -3 for a row out of range, else the first of up to\n"
"    eight rows among which one could not be read.\n"
"Raises: ValueError for buffers of other sizes.");

static PyObject *gather(PyObject *module, PyObject *arguments) {
    Py_buffer rows, starts, bases;
    long long num_views, stride, first;
    PyObject *list, *result = NULL;
    Field fields[MOST_FIELDS];
    int num_fields = 0;
    if (!PyArg_ParseTuple(arguments, "y*y*y*LLLO!", &rows, &starts, &bases, &num_views, &stride, &first, &PyTuple_Type,
                          &list))
        return NULL;
    const Py_ssize_t word = sizeof(int64_t);
    Places places = {
        .rows = rows.buf, .count = rows.len / (2 * word), .starts = starts.buf, .bases = bases.buf,
        .num_files = bases.len / word, .num_views = num_views, .stride = stride, .first = first,
    };
    if (rows.len % (2 * word) || bases.len % word || starts.len != (places.num_files + 1) * word ||
        places.num_files < 1) {
        PyErr_SetString(PyExc_ValueError, "rows, starts and bases do not fit each other");
    } else if (take_fields(list, places.count, fields, &num_fields) == 0) {
        Py_ssize_t outcome;
        Py_BEGIN_ALLOW_THREADS
        outcome = copy_all(&places, fields, num_fields);
        Py_END_ALLOW_THREADS
        result = PyLong_FromSsize_t(outcome);
    }
    while (num_fields > 0)
        PyBuffer_Release(&fields[--num_fields].destination);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&bases);
    return result;
}

PyDoc_STRVAR(read_doc,
"read(pieces, out) -> int\n\n"
"Read pieces of files, one after the other into a buffer; the interpreter runs on meanwhile.\n\n"
"Args:\n"
"    pieces: (n, 3) int64: descriptor, offset and size in bytes of each piece.\n"
"    out: Writable buffer of as many bytes as the pieces have together.\n\n"
"Returns: -1 when all were read, else the first that was not or not whole.\n"
"Raises: ValueError for a buffer of another size.");

static Py_ssize_t read_all(const int64_t *pieces, Py_ssize_t count, char *out) {
    for (Py_ssize_t i = 0; i < count; i++) {
        int64_t size = pieces[3 * i + 2];
        if (pread((int)pieces[3 * i], out, size, pieces[3 * i + 1]) != size)
            return i;
        out += size;
    }
    return -1;
}

static PyObject *read_pieces(PyObject *module, PyObject *arguments) {
    Py_buffer pieces, out;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*w*", &pieces, &out))
        return NULL;
    const int64_t *every = pieces.buf;
    Py_ssize_t count = pieces.len / (3 * sizeof *every);
    int64_t total = 0, most = out.len;
    for (Py_ssize_t i = 0; i < count && total >= 0; i++) {
        int64_t size = every[3 * i + 2];
        total = size < 0 || size > most - total ? -1 : total + size;
    }
    if (pieces.len % (3 * sizeof *every) || total != most)
        PyErr_Format(PyExc_ValueError, "%zd pieces do not fill a buffer of %zd bytes", count, out.len);
    else {
        Py_ssize_t outcome;
        Py_BEGIN_ALLOW_THREADS
        outcome = read_all(every, count, out.buf);
        Py_END_ALLOW_THREADS
        result = PyLong_FromSsize_t(outcome);
    }
    PyBuffer_Release(&pieces);
    PyBuffer_Release(&out);
    return result;
}

PyDoc_STRVAR(are_unchanged_doc,
"are_unchanged(rows, starts, descriptors, identities) -> bool\n\n"
"Whether the files that rows lie in are what they were.\n\n"
"Args:\n"
"    rows: (n, 2) int64, sample and view numbers.\n"
"    starts: (shards + 1,) int64, the first sample of each shard, and the number of samples.\n"
"    descriptors: (shards, parts) int64, -1 where a shard is not open.\n"
"    identities: (shards, parts, 5) uint64: device, inode, size, and times of modification and change in ns.\n\n"
"Returns: False also for a row whose shard is not open.\n"
"Raises: ValueError for buffers of other sizes.");

enum { IDENTITY = 5 };

static int is_unchanged(int64_t descriptor, const uint64_t *identity) {
    struct stat now;
    if (descriptor < 0 || fstat((int)descriptor, &now))
        return 0;
#ifdef __APPLE__
    const struct timespec modified = now.st_mtimespec, changed = now.st_ctimespec;
#else
    const struct timespec modified = now.st_mtim, changed = now.st_ctim;
#endif
    return identity[0] == (uint64_t)now.st_dev && identity[1] == (uint64_t)now.st_ino &&
           identity[2] == (uint64_t)now.st_size &&
           identity[3] == (uint64_t)((int64_t)modified.tv_sec * 1000000000 + modified.tv_nsec) &&
           identity[4] == (uint64_t)((int64_t)changed.tv_sec * 1000000000 + changed.tv_nsec);
}

static PyObject *are_unchanged(PyObject *module, PyObject *arguments) {
    Py_buffer rows, starts, descriptors, identities;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*y*y*y*", &rows, &starts, &descriptors, &identities))
        return NULL;
    const Py_ssize_t word = sizeof(int64_t), count = rows.len / (2 * word), num_shards = starts.len / word - 1;
    const Py_ssize_t num_parts = num_shards > 0 ? descriptors.len / word / num_shards : 0;
    char *is_seen = num_shards > 0 ? calloc(num_shards, 1) : NULL;
    if (rows.len % (2 * word) || num_shards < 1 || descriptors.len != num_shards * num_parts * word ||
        identities.len != descriptors.len * IDENTITY)
        PyErr_SetString(PyExc_ValueError, "rows, starts, descriptors and identities do not fit each other");
    else if (!is_seen)
        PyErr_NoMemory();
    else {
        const Places places = {.rows = rows.buf, .count = count, .starts = starts.buf, .num_files = num_shards};
        int is_fine = 1;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < count && is_fine; i++) {
            int64_t sample = places.rows[2 * i], shard = file_of(&places, sample);
            is_fine = sample >= 0 && sample < places.starts[num_shards];
            if (!is_fine || is_seen[shard])
                continue;
            is_seen[shard] = 1;
            for (Py_ssize_t place = shard * num_parts; place < (shard + 1) * num_parts && is_fine; place++)
                is_fine = is_unchanged(
                    ((const int64_t *)descriptors.buf)[place], (const uint64_t *)identities.buf + place * IDENTITY
                );
        }
        Py_END_ALLOW_THREADS
        result = PyBool_FromLong(is_fine);
    }
    free(is_seen);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&descriptors);
    PyBuffer_Release(&identities);
    return result;
}

PyDoc_STRVAR(take_doc,
"take(rows, starts, offsets, values, out) -> bool\n\n"
"The values of samples, one for each row.\n\n"
"Args:\n"
"    rows: (n, 2) int64, sample and view numbers.\n"
"    starts: (shards + 1,) int64, the first sample of each shard, and the number of samples.\n"
"    offsets: (shards,) int64: sample s of a shard is number s + offset of the values.\n"
"    values, out: int64; (n,) of output.\n\n"
"Returns: False for a row that has no such number: `out` means nothing then.\n"
"Raises: ValueError for buffers of other sizes.");

static PyObject *take(PyObject *module, PyObject *arguments) {
    Py_buffer rows, starts, offsets, values, out;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*y*y*y*w*", &rows, &starts, &offsets, &values, &out))
        return NULL;
    const Py_ssize_t word = sizeof(int64_t), num_values = values.len / word;
    const Places places = {
        .rows = rows.buf, .count = rows.len / (2 * word), .starts = starts.buf, .num_files = starts.len / word - 1,
    };
    if (rows.len % (2 * word) || places.num_files < 1 || offsets.len != places.num_files * word ||
        out.len != places.count * word)
        PyErr_SetString(PyExc_ValueError, "rows, starts, offsets and output do not fit each other");
    else {
        int is_fine = 1;
        for (Py_ssize_t i = 0; i < places.count && is_fine; i++) {
            int64_t sample = places.rows[2 * i];
            int64_t number = ((const int64_t *)offsets.buf)[file_of(&places, sample)] + sample;
            is_fine = number >= 0 && number < num_values;
            if (is_fine)
                ((int64_t *)out.buf)[i] = ((const int64_t *)values.buf)[number];
        }
        result = PyBool_FromLong(is_fine);
    }
    PyBuffer_Release(&rows);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&values);
    PyBuffer_Release(&out);
    return result;
}

static PyMethodDef methods[] = {
    {"gather", gather, METH_VARARGS, gather_doc},
    {"take", take, METH_VARARGS, take_doc},
    {"are_unchanged", are_unchanged, METH_VARARGS, are_unchanged_doc},
    {"read", read_pieces, METH_VARARGS, read_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_gather", "The copies of a stream in C; see gather.py and pieces.py.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__gather(void) {
    pthread_atfork(NULL, NULL, after_fork);
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "STREAMING", STREAMING) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
