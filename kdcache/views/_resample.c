/* Views cut from decoded images, many in one call without the interpreter lock, with Pillow's pixels.
 *
 * A view of a 32 px image takes some 10 us to compute. Through Pillow's objects it takes 60 us, nearly all of it under
 * the interpreter lock, so that two threads are no faster than one.
 *
 * The pixels are those of Pillow's `crop`, `resize`, `crop`: a separable filter in two passes, each rounded to 8 bits,
 * weights in fixed point with 22 fractional bits. Until Pillow 12 the horizontal pass was always the first; Pillow 13
 * begins with the vertical one where the height loses more than twice as many pixels as the width, which rounds
 * otherwise. Only the window is computed. The arithmetic of the weights is in double and in Pillow's order; tests and
 * a check at first use compare the result bit for bit.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHANNELS = 3,
    FIELDS = 9,          /* integers that say how a view is cut: the first ones of VIEW_FIELDS */
    WEIGHT_BITS = 22,    /* 32 - 8 bits of a pixel - 2 for sums beyond 255 and below 0 */
    MOST_SIDE = 1 << 26, /* of an image or a resized box; keeps every product below 2**63 */
};

/* Wide integer products are exact whatever the width, so the compiler may choose the instructions. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

typedef struct {
    int32_t left, top, width, height, resized_width, resized_height, window_left, window_top, flip;
} View;

typedef struct {
    Py_buffer buffer;
    Py_ssize_t width, height;
} Source;

/* The weights of one pass: output i is the sum of `count[i]` inputs from `first[i]` on. */
typedef struct {
    int most; /* weights kept for each output */
    int32_t *first, *count, *weights;
} Pass;

static double bilinear(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0)
        return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

typedef struct {
    double (*weight)(double);
    double support;
} Filter;

static const Filter FILTERS[] = {{bilinear, 1.0}, {bicubic, 2.0}};

static void free_pass(Pass *pass) {
    free(pass->first);
    free(pass->count);
    free(pass->weights);
    memset(pass, 0, sizeof *pass);
}

/* Weights of the outputs `from` to `from + size` of a line of `inputs` pixels resized to `outputs`. 0: no memory. */
static int plan_pass(Pass *pass, const Filter *filter, int inputs, int outputs, int from, int size) {
    double scale = (double)inputs / outputs;
    double stretch = scale < 1.0 ? 1.0 : scale;
    double support = filter->support * stretch;
    double per_pixel = 1.0 / stretch;
    pass->most = (int)ceil(support) * 2 + 1;
    pass->first = malloc(size * sizeof *pass->first);
    pass->count = malloc(size * sizeof *pass->count);
    pass->weights = malloc((size_t)size * pass->most * sizeof *pass->weights);
    double *exact = malloc(pass->most * sizeof *exact);
    if (!pass->first || !pass->count || !pass->weights || !exact) {
        free(exact);
        return 0;
    }
    for (int i = 0; i < size; i++) {
        double center = (from + i + 0.5) * scale;
        int first = (int)(center - support + 0.5);
        int end = (int)(center + support + 0.5);
        first = first < 0 ? 0 : first;
        end = end > inputs ? inputs : end;
        double sum = 0.0;
        for (int k = 0; k < end - first; k++) {
            exact[k] = filter->weight((k + first - center + 0.5) * per_pixel);
            sum += exact[k];
        }
        for (int k = 0; k < end - first; k++) {
            double weight = sum != 0.0 ? exact[k] / sum : exact[k];
            weight *= 1 << WEIGHT_BITS;
            pass->weights[(size_t)i * pass->most + k] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
        }
        pass->first[i] = first;
        pass->count[i] = end - first;
    }
    free(exact);
    return 1;
}

static inline uint8_t rounded(int32_t sum) {
    int32_t value = sum >> WEIGHT_BITS;
    return value < 0 ? 0 : value > 255 ? 255 : value;
}

static const int32_t HALF = 1 << (WEIGHT_BITS - 1);

static void filter_row(const Pass *pass, const uint8_t *restrict in, uint8_t *restrict out, int size) {
    for (int i = 0; i < size; i++, out += CHANNELS) {
        const int32_t *weights = pass->weights + (size_t)i * pass->most;
        const uint8_t *pixel = in + (size_t)pass->first[i] * CHANNELS;
        int32_t red = HALF, green = HALF, blue = HALF;
        for (int k = 0; k < pass->count[i]; k++, pixel += CHANNELS) {
            red += weights[k] * pixel[0];
            green += weights[k] * pixel[1];
            blue += weights[k] * pixel[2];
        }
        out[0] = rounded(red);
        out[1] = rounded(green);
        out[2] = rounded(blue);
    }
}

/* One output row from `count` input rows, each `pitch` bytes behind the last; `sums` has room for `bytes`. */
WIDE static void filter_column(
    const int32_t *restrict weights, int count, const uint8_t *restrict in, size_t pitch, uint8_t *restrict out,
    int32_t *restrict sums, int bytes
) {
    for (int x = 0; x < bytes; x++)
        sums[x] = HALF;
    for (int k = 0; k < count; k++, in += pitch)
        for (int x = 0; x < bytes; x++)
            sums[x] += weights[k] * in[x];
    for (int x = 0; x < bytes; x++)
        out[x] = rounded(sums[x]);
}

static void mirror_row(uint8_t *row, int size) {
    for (int a = 0, b = size - 1; a < b; a++, b--)
        for (int c = 0; c < CHANNELS; c++) {
            uint8_t kept = row[a * CHANNELS + c];
            row[a * CHANNELS + c] = row[b * CHANNELS + c];
            row[b * CHANNELS + c] = kept;
        }
}

/* Scratch memory of a thread's call; grows with its views. */
typedef struct {
    void *bytes[2];
    size_t size[2];
} Scratch;

enum { ROWS, SUMS };

static void *room(Scratch *scratch, int which, size_t size) {
    if (size > scratch->size[which]) {
        free(scratch->bytes[which]);
        scratch->bytes[which] = malloc(size);
        scratch->size[which] = scratch->bytes[which] ? size : 0;
    }
    return scratch->bytes[which];
}

/* Moves the inputs so that the first one needed is number 0. The number it had; `count` is how many are needed. */
static int shift_inputs(Pass *pass, int size, int *count) {
    int first = pass->first[0];
    *count = pass->first[size - 1] + pass->count[size - 1] - first;
    for (int i = 0; i < size; i++)
        pass->first[i] -= first;
    return first;
}

static inline const int32_t *weights_of(const Pass *pass, int i) { return pass->weights + (size_t)i * pass->most; }

/* Both passes, or one, or none; `in` is the upper left corner of the box. 0: no memory. */
static int rows_before_columns(
    Pass *across, Pass *down, const View *view, const uint8_t *in, size_t pitch, int size, uint8_t *out, Scratch *scratch
) {
    size_t row_bytes = (size_t)size * CHANNELS;
    int num_rows = size, first_row = down->first ? shift_inputs(down, size, &num_rows) : view->window_top;
    in += first_row * pitch;
    if (across->first) {
        uint8_t *rows = down->first ? room(scratch, ROWS, num_rows * row_bytes) : out;
        if (!rows)
            return 0;
        for (int y = 0; y < num_rows; y++)
            filter_row(across, in + y * pitch, rows + y * row_bytes, size);
        in = rows;
        pitch = row_bytes;
    } else
        in += (size_t)view->window_left * CHANNELS;
    int32_t *sums = down->first ? room(scratch, SUMS, row_bytes * sizeof *sums) : NULL;
    if (down->first && !sums)
        return 0;
    for (int y = 0; y < size; y++, out += row_bytes)
        if (down->first)
            filter_column(weights_of(down, y), down->count[y], in + down->first[y] * pitch, pitch, out, sums, row_bytes);
        else if (!across->first)
            memcpy(out, in + y * pitch, row_bytes);
    return 1;
}

/* Both passes, the vertical one first: one row at a time. 0: no memory. */
static int columns_before_rows(
    Pass *across, Pass *down, const uint8_t *in, size_t pitch, int size, uint8_t *out, Scratch *scratch
) {
    int num_columns, first_column = shift_inputs(across, size, &num_columns);
    size_t bytes = (size_t)num_columns * CHANNELS;
    uint8_t *row = room(scratch, ROWS, bytes);
    int32_t *sums = room(scratch, SUMS, bytes * sizeof *sums);
    if (!row || !sums)
        return 0;
    in += (size_t)first_column * CHANNELS;
    for (int y = 0; y < size; y++, out += (size_t)size * CHANNELS) {
        filter_column(weights_of(down, y), down->count[y], in + down->first[y] * pitch, pitch, row, sums, bytes);
        filter_row(across, row, out, size);
    }
    return 1;
}

/* 0: no memory. */
static int cut_view(
    const Source *image, const View *view, const Filter *filter, int is_new_order, int size, uint8_t *out,
    Scratch *scratch
) {
    size_t pitch = image->width * CHANNELS;
    const uint8_t *in = (const uint8_t *)image->buffer.buf + view->top * pitch + (size_t)view->left * CHANNELS;
    Pass across = {0}, down = {0};
    int is_fine = 1;
    if (view->resized_height != view->height)
        is_fine = plan_pass(&down, filter, view->height, view->resized_height, view->window_top, size);
    if (is_fine && view->resized_width != view->width)
        is_fine = plan_pass(&across, filter, view->width, view->resized_width, view->window_left, size);
    int64_t fewer_rows = (int64_t)view->height - view->resized_height;
    int64_t fewer_columns = (int64_t)view->width - view->resized_width;
    int is_down_first = is_new_order && fewer_rows > 0 && fewer_rows > 2 * fewer_columns;
    if (is_fine && is_down_first && across.first && down.first)
        is_fine = columns_before_rows(&across, &down, in, pitch, size, out, scratch);
    else if (is_fine)
        is_fine = rows_before_columns(&across, &down, view, in, pitch, size, out, scratch);
    for (int y = 0; y < size && is_fine && view->flip; y++)
        mirror_row(out + (size_t)y * size * CHANNELS, size);
    free_pass(&across);
    free_pass(&down);
    return is_fine;
}

static int fits(const Source *image, const View *view, int size) {
    return view->left >= 0 && view->top >= 0 && view->width > 0 && view->height > 0 &&
           (int64_t)view->left + view->width <= image->width && (int64_t)view->top + view->height <= image->height &&
           view->window_left >= 0 && view->window_top >= 0 && view->resized_width <= MOST_SIDE &&
           view->resized_height <= MOST_SIDE && (int64_t)view->window_left + size <= view->resized_width &&
           (int64_t)view->window_top + size <= view->resized_height;
}

static int take_source(PyObject *image, Source *source) {
    if (PyObject_GetBuffer(image, &source->buffer, PyBUF_C_CONTIGUOUS) < 0)
        return -1;
    Py_buffer *buffer = &source->buffer;
    if (buffer->ndim != 3 || buffer->itemsize != 1 || buffer->shape[2] != CHANNELS || buffer->shape[0] > MOST_SIDE ||
        buffer->shape[1] > MOST_SIDE) {
        PyErr_SetString(PyExc_ValueError, "images must be (H, W, 3) uint8");
        PyBuffer_Release(buffer);
        return -1;
    }
    source->height = buffer->shape[0];
    source->width = buffer->shape[1];
    return 0;
}

static PyObject *cut(PyObject *self, PyObject *arguments) {
    PyObject *images, *result = NULL;
    Py_buffer views, out;
    int number, is_new_order, size;
    if (!PyArg_ParseTuple(arguments, "O!y*ipiw*", &PyList_Type, &images, &views, &number, &is_new_order, &size, &out))
        return NULL;
    Py_ssize_t count = PyList_GET_SIZE(images), taken = 0;
    Scratch scratch = {0};
    Source *sources = PyMem_Calloc(count ? count : 1, sizeof *sources);
    const View *every = views.buf;
    if (!sources) {
        PyErr_NoMemory();
        goto end;
    }
    if (number < 0 || number >= (int)(sizeof FILTERS / sizeof *FILTERS) || size < 1 || size > (1 << 14) ||
        views.len != count * (Py_ssize_t)sizeof(View) || out.len != count * (Py_ssize_t)size * size * CHANNELS) {
        PyErr_Format(
            PyExc_ValueError, "%zd images need views of %d int32 and (%zd, %d, %d, 3) bytes of output", count, FIELDS,
            count, size, size
        );
        goto end;
    }
    for (; taken < count; taken++) {
        if (take_source(PyList_GET_ITEM(images, taken), &sources[taken]) < 0)
            goto end;
        if (!fits(&sources[taken], &every[taken], size)) {
            result = PyLong_FromSsize_t(taken);
            taken++;
            goto end;
        }
    }
    int is_fine;
    Py_BEGIN_ALLOW_THREADS;
    is_fine = 1;
    for (Py_ssize_t i = 0; i < count && is_fine; i++) {
        uint8_t *pixels = (uint8_t *)out.buf + i * (size_t)size * size * CHANNELS;
        is_fine = cut_view(&sources[i], &every[i], &FILTERS[number], is_new_order, size, pixels, &scratch);
    }
    free(scratch.bytes[ROWS]);
    free(scratch.bytes[SUMS]);
    Py_END_ALLOW_THREADS;
    if (is_fine)
        result = PyLong_FromSsize_t(-1);
    else
        PyErr_NoMemory();
end:
    for (Py_ssize_t i = 0; i < taken; i++)
        PyBuffer_Release(&sources[i].buffer);
    PyMem_Free(sources);
    PyBuffer_Release(&views);
    PyBuffer_Release(&out);
    return result;
}

static PyMethodDef methods[] = {
    {"cut", cut, METH_VARARGS,
     "cut(images, views, filter, is_new_order, size, out)\n\nFill `out` with one view of each image; -1, or the first view that does "
     "not fit its image (then nothing is written)."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_resample", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__resample(void) { return PyModule_Create(&module); }
