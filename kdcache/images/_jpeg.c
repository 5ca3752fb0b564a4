/* JPEG files, many decoded in one call without the interpreter lock, by the libjpeg-turbo that Pillow has loaded.
 *
 * A JPEG of 32 px takes 8 us to decode. Called from Python one by one, each waits for the interpreter lock twice, so
 * that two threads decode no more than one. Pillow's own library gives Pillow's pixels, and nothing is linked or
 * bundled: its functions are looked up in the module that Pillow has loaded. What is declared here is the part of
 * libjpeg's binary interface that comes first in its structures and is the same in versions 6b and 8; the library
 * compares version and size of the whole when a decompressor is created.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <setjmp.h>
#include <stdint.h>
#include <string.h>

#ifndef _WIN32
#include <dlfcn.h>
#endif

enum {
    CHANNELS = 3,
    COLOUR_RGB = 2,
    MOST_PIXELS = 64000000,
    ERROR_BYTES = 1024, /* more than any version's error manager */
    STATE_BYTES = 2048, /* more than any version's decompressor */
    ROWS_AT_ONCE = 16,
};

/* Versions of the interface, and the size of a decompressor in each where pointers have 64 bits. */
static const struct {
    int version;
    size_t size;
} INTERFACES[] = {{62, 632}, {80, 656}};

enum { NUM_INTERFACES = sizeof INTERFACES / sizeof *INTERFACES };

typedef struct Decompressor Decompressor;

typedef union {
    struct {
        void (*error_exit)(Decompressor *);
        void (*emit_message)(Decompressor *, int level);
        void (*output_message)(Decompressor *);
        void (*format_message)(Decompressor *, char *);
        void (*reset)(Decompressor *);
        int code;
        union {
            int integers[8];
            char text[80];
        } parameters;
        int trace_level;
        long num_warnings;
    };
    char whole[ERROR_BYTES];
} Errors;

struct Decompressor {
    union {
        struct {
            Errors *errors;
            void *memory, *progress, *client;
            int is_decompressor, state;
            void *source;
            unsigned width, height;
            int components, stored_colour, colour;
            unsigned scale_numerator, scale_denominator;
            double gamma;
            int buffered, raw, transform, smooth_upsampling, smooth_blocks, quantized, dither, two_passes, most_colours;
            int one_pass_later, external_later, two_passes_later;
            unsigned output_width, output_height;
            int output_colours, output_components, rows_at_once, colours;
            void *map;
            unsigned next_row;
        };
        char whole[STATE_BYTES];
    };
};

typedef struct {
    Errors *(*standard_errors)(Errors *);
    void (*create)(Decompressor *, int version, size_t size);
    void (*source)(Decompressor *, const unsigned char *data, unsigned long size);
    int (*read_header)(Decompressor *, int is_image_needed);
    int (*start)(Decompressor *);
    unsigned (*read_rows)(Decompressor *, unsigned char **rows, unsigned most);
    int (*finish)(Decompressor *);
    void (*abort)(Decompressor *);
    void (*destroy)(Decompressor *);
    int interface; /* of INTERFACES; -1 while no library is loaded */
} Library;

static Library loaded = {.interface = -1};

typedef struct {
    const unsigned char *data;
    Py_ssize_t size;
    int32_t width, height; /* 0 where Pillow decides */
    int is_whole;          /* one scan, whose tables all lie in the file, before it */
} File;

typedef struct {
    Library library;
    Decompressor state;
    Errors errors;
    jmp_buf failed;
} Decoding;

static void fail(Decompressor *state) { longjmp(*(jmp_buf *)state->client, 1); }

/* Warnings are as good as errors: Pillow decides about such files. */
static void warn(Decompressor *state, int level) {
    if (level < 0)
        fail(state);
}

static void be_silent(Decompressor *state) { (void)state; }

/* A new decompressor, whose errors jump back into its user. 0: another version or size; nothing is allocated then. */
static int create(Decoding *decoding) {
    const Library *library = &decoding->library;
    memset(&decoding->state, 0, sizeof decoding->state);
    decoding->state.errors = library->standard_errors(&decoding->errors);
    decoding->state.client = &decoding->failed;
    decoding->errors.error_exit = fail;
    decoding->errors.emit_message = warn;
    decoding->errors.output_message = be_silent;
    if (setjmp(decoding->failed))
        return 0;
    library->create(&decoding->state, INTERFACES[library->interface].version, INTERFACES[library->interface].size);
    return 1;
}

/* Fills height x width pixels. 0: the library had something to say, be it a warning, or the size is another. */
static int decode_file(Decoding *decoding, const File *file, unsigned char *out) {
    const Library *library = &decoding->library;
    Decompressor *state = &decoding->state;
    size_t pitch = (size_t)file->width * CHANNELS;
    if (setjmp(decoding->failed)) {
        library->abort(state);
        return 0;
    }
    library->source(state, file->data, (unsigned long)file->size);
    library->read_header(state, 1);
    state->colour = COLOUR_RGB;
    library->start(state);
    if (state->output_width != (unsigned)file->width || state->output_height != (unsigned)file->height ||
        state->output_components != CHANNELS) {
        library->abort(state);
        return 0;
    }
    while (state->next_row < state->output_height) {
        unsigned char *rows[ROWS_AT_ONCE];
        unsigned left = state->output_height - state->next_row, most = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
        for (unsigned i = 0; i < most; i++)
            rows[i] = out + (state->next_row + i) * pitch;
        library->read_rows(state, rows, most);
    }
    library->finish(state);
    return 1;
}

/* Which tables a file has, as bits: quantisation by number, Huffman codes by class and number. */
typedef struct {
    unsigned quantisation, codes;
} Tables;

static void note_quantisation(Tables *tables, const unsigned char *data, int size) {
    for (int at = 0; at < size; at += 1 + (data[at] >> 4 ? 128 : 64))
        tables->quantisation |= 1u << (data[at] & 15);
}

static void note_codes(Tables *tables, const unsigned char *data, int size) {
    for (int at = 0; at + 17 <= size;) {
        int symbols = 0;
        for (int length = 1; length <= 16; length++)
            symbols += data[at + length];
        tables->codes |= 1u << (data[at] & 31);
        at += 17 + symbols;
    }
}

/* A frame's components with the number of their quantisation table. */
static int has_quantisation(const Tables *tables, const unsigned char *frame, int components) {
    for (int i = 0; i < components; i++)
        if (!(tables->quantisation & 1u << (frame[8 + 3 * i] & 15)))
            return 0;
    return 1;
}

/* A scan's components, each with two numbers of Huffman codes. */
static int has_codes(const Tables *tables, const unsigned char *scan, int components) {
    for (int i = 0; i < components; i++) {
        int both = scan[2 + 2 * i];
        if (!(tables->codes & 1u << (both >> 4)) || !(tables->codes & 1u << (16 + (both & 15))))
            return 0;
    }
    return 1;
}

static int is_skipped(int marker) {
    return marker == 0xDD || marker == 0xFE || (marker >= 0xE0 && marker <= 0xEF); /* restarts, comment, application */
}

static int two_bytes(const unsigned char *data) { return data[0] << 8 | data[1]; }

/* What the header says of a file up to its first scan. libjpeg-turbo and Pillow decode 8 bits, grey or of three
 * colours, alike in baseline, extended sequential and progressive files with Huffman codes. */
static void read_header(File *file) {
    const unsigned char *frame = NULL, *data = file->data;
    Tables tables = {0};
    int components = 0, is_progressive = 0;
    file->width = file->height = file->is_whole = 0;
    if (file->size < 4 || data[0] != 0xFF || data[1] != 0xD8)
        return;
    for (Py_ssize_t at = 2; at + 4 <= file->size && data[at] == 0xFF;) {
        int marker = data[at + 1], size = two_bytes(data + at + 2) - 2;
        const unsigned char *content = data + at + 4;
        if (marker == 0xFF) { /* padding */
            at++;
            continue;
        }
        if (size < 0 || at + 4 + size > file->size)
            return;
        if (marker == 0xDB)
            note_quantisation(&tables, content, size);
        else if (marker == 0xC4)
            note_codes(&tables, content, size);
        else if (marker >= 0xC0 && marker <= 0xC2 && !frame && size >= 6) {
            int64_t height = two_bytes(content + 1), width = two_bytes(content + 3);
            components = content[5];
            if (content[0] != 8 || (components != 1 && components != 3) || size != 6 + 3 * components ||
                !width || !height || width * height > MOST_PIXELS)
                return;
            frame = content;
            is_progressive = marker == 0xC2;
            file->height = (int32_t)height;
            file->width = (int32_t)width;
        } else if (marker == 0xDA && frame) {
            file->is_whole = !is_progressive && size == 4 + 2 * components && content[0] == components &&
                             has_quantisation(&tables, frame, components) && has_codes(&tables, content, components);
            return;
        } else if (!is_skipped(marker))
            return;
        at += 4 + size;
    }
}

/* A decompressor is made anew for a file that may lack tables, which would be those of the file before, and kept for
 * others: making one asks the processor what it can, which takes as long as half a small file where the processor is
 * a virtual one. */
static void decode_files(
    const Library *library, File *files, Py_ssize_t count, const int64_t *starts, unsigned char *out, Py_ssize_t size,
    char *is_decoded
) {
    Decoding decoding = {.library = *library};
    int is_there = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        File *file = &files[i];
        read_header(file);
        int64_t needed = (int64_t)file->width * file->height * CHANNELS;
        is_decoded[i] = 0;
        if (!needed || starts[i] < 0 || needed > size || starts[i] > size - needed)
            continue;
        if (is_there && !file->is_whole) {
            library->destroy(&decoding.state);
            is_there = 0;
        }
        is_there = is_there || create(&decoding);
        is_decoded[i] = is_there && decode_file(&decoding, file, out + starts[i]);
    }
    if (is_there)
        library->destroy(&decoding.state);
}

/* Files within one buffer by (n, 2) int64, offset and size. NULL: an exception is set. */
static File *take_files(const Py_buffer *data, const Py_buffer *places, Py_ssize_t *count) {
    const int64_t *place = places->buf;
    *count = places->len / (2 * sizeof *place);
    File *files = PyMem_Calloc(*count ? *count : 1, sizeof *files);
    if (!files)
        return (File *)PyErr_NoMemory();
    int is_fine = places->len % (2 * sizeof *place) == 0;
    for (Py_ssize_t i = 0; i < *count && is_fine; i++) {
        int64_t offset = place[2 * i], size = place[2 * i + 1];
        is_fine = offset >= 0 && size >= 0 && offset <= data->len && size <= data->len - offset;
        files[i].data = (const unsigned char *)data->buf + offset;
        files[i].size = (Py_ssize_t)size;
    }
    if (!is_fine) {
        PyErr_Format(PyExc_ValueError, "places of files must be (n, 2) int64 within the %zd bytes of data", data->len);
        PyMem_Free(files);
        return NULL;
    }
    return files;
}

static PyObject *sizes_of(PyObject *self, PyObject *arguments) {
    Py_buffer data, places, out;
    if (!PyArg_ParseTuple(arguments, "y*y*w*", &data, &places, &out))
        return NULL;
    Py_ssize_t count;
    File *files = take_files(&data, &places, &count);
    int is_fine = files && out.len == count * 2 * (Py_ssize_t)sizeof(int64_t);
    int64_t *sizes = out.buf;
    for (Py_ssize_t i = 0; i < count && is_fine; i++) {
        read_header(&files[i]);
        sizes[2 * i] = files[i].height;
        sizes[2 * i + 1] = files[i].width;
    }
    if (files && !is_fine)
        PyErr_Format(PyExc_ValueError, "%zd files need (%zd, 2) int64 of output, got %zd bytes", count, count, out.len);
    PyMem_Free(files);
    PyBuffer_Release(&data);
    PyBuffer_Release(&places);
    PyBuffer_Release(&out);
    if (!is_fine)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *decode(PyObject *self, PyObject *arguments) {
    Py_buffer data, places, starts, out;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(arguments, "y*y*y*w*", &data, &places, &starts, &out))
        return NULL;
    Py_ssize_t count;
    File *files = take_files(&data, &places, &count);
    if (files && loaded.interface < 0)
        PyErr_SetString(PyExc_RuntimeError, "no libjpeg is loaded: call load first");
    else if (files && starts.len != count * (Py_ssize_t)sizeof(int64_t))
        PyErr_Format(PyExc_ValueError, "%zd files need as many starts of int64, got %zd bytes", count, starts.len);
    else if (files && (result = PyBytes_FromStringAndSize(NULL, count))) {
        Library library = loaded;
        Py_BEGIN_ALLOW_THREADS;
        decode_files(&library, files, count, starts.buf, out.buf, out.len, PyBytes_AS_STRING(result));
        Py_END_ALLOW_THREADS;
    }
    PyMem_Free(files);
    PyBuffer_Release(&data);
    PyBuffer_Release(&places);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&out);
    return result;
}

#ifndef _WIN32
/* 1: every function is there. */
static int find_functions(void *module, Library *library) {
    const struct {
        const char *name;
        void *place;
    } functions[] = {
        {"jpeg_std_error", &library->standard_errors},
        {"jpeg_CreateDecompress", &library->create},
        {"jpeg_mem_src", &library->source},
        {"jpeg_read_header", &library->read_header},
        {"jpeg_start_decompress", &library->start},
        {"jpeg_read_scanlines", &library->read_rows},
        {"jpeg_finish_decompress", &library->finish},
        {"jpeg_abort_decompress", &library->abort},
        {"jpeg_destroy_decompress", &library->destroy},
    };
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *found = dlsym(module, functions[i].name);
        if (!found)
            return 0;
        memcpy(functions[i].place, &found, sizeof found);
    }
    return 1;
}
#endif

static PyObject *load(PyObject *self, PyObject *argument) {
    Decoding decoding = {.library = {.interface = -1}};
#ifndef _WIN32
    PyObject *path = NULL;
    if (!PyUnicode_FSConverter(argument, &path))
        return NULL;
    void *module = dlopen(PyBytes_AS_STRING(path), RTLD_NOW | RTLD_NOLOAD);
    Py_DECREF(path);
    int count = sizeof(void *) == 8 && module && find_functions(module, &decoding.library) ? NUM_INTERFACES : 0;
    for (int i = 0; i < count; i++) {
        decoding.library.interface = i;
        if (create(&decoding)) {
            decoding.library.destroy(&decoding.state);
            break;
        }
        decoding.library.interface = -1;
    }
#endif
    loaded = decoding.library;
    return PyBool_FromLong(loaded.interface >= 0);
}

static PyMethodDef methods[] = {
    {"load", load, METH_O,
     "load(module)\n\nFind libjpeg's functions in a module that is loaded, or in what it is linked to. Whether they "
     "are there and of a known version."},
    {"sizes_of", sizes_of, METH_VARARGS,
     "sizes_of(data, places, out)\n\nFill `out`, (n, 2) int64, with height and width of each file; 0 where Pillow "
     "decides. `places`: (n, 2) int64, offset and size of each file in `data`."},
    {"decode", decode, METH_VARARGS,
     "decode(data, places, starts, out)\n\nDecode each file to its start in `out`, (n,) int64: (H, W, 3) bytes of the "
     "size in `sizes_of`. A byte for each file: 1 where it was decoded without a warning; what is written of others "
     "means nothing."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_jpeg", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__jpeg(void) { return PyModule_Create(&module); }
