/* keep_first on a CPU for tensors whose features lie in rows of memory: of each row, copy the kept part and zero the rest.
 *
 * Bytes are moved, not numbers, so that one function serves every dtype, and no value of the tail matters. Plain C without
 * torch's headers: an extension of Python's stable ABI, built where there is a compiler. Each call starts its own
 * threads: with OpenMP there would be a second pool of threads beside torch's.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>
#ifndef _WIN32
#include <pthread.h>
#endif

#define MOST_THREADS 64
#define FETCHED 512 /* bytes; neither 256 nor 1024 made it faster */
#define BLOCK 64 /* bytes: a line of the cache */

typedef struct {
    const char *in;
    char *out;
    const void *k; /* one per row: float if `fractional`, else int64_t */
    Py_ssize_t first, end, n, feature_bytes; /* rows first … end − 1 of n features */
    int fractional;
} Rows;

/* Return how many features of a row are kept: those with j <= k; none for NaN. */
static inline Py_ssize_t kept_in(const Rows *rows, Py_ssize_t row) {
    if (rows->fractional) {
        const double e = ((const float *)rows->k)[row];
        return e >= (double)rows->n ? rows->n : e > 0 ? (Py_ssize_t)e : 0;
    }
    const int64_t k = ((const int64_t *)rows->k)[row];
    return k >= rows->n ? rows->n : k > 0 ? (Py_ssize_t)k : 0;
}

/* Rows end at random, where the processor's own prefetching loses track: fetch the start of the next row by hand.
 *
 * Of a row with less to keep, one line is fetched several times. To stop instead would be a branch that no processor predicts. */
static inline void fetch(const char *from, Py_ssize_t kept) {
#ifdef __GNUC__
    for (Py_ssize_t byte = 0; byte < FETCHED; byte += BLOCK)
        __builtin_prefetch(from + (byte < kept ? byte : 0));
#else
    (void)from, (void)kept;
#endif
}

/* Write a row: the first `kept` of its `width` bytes from `from`, the others as zeros; `to` may be `from`.
 *
 * Whole blocks are copied, the last one with bytes of the tail, which the zeros then replace: a constant length becomes a few
 * instructions, while memcpy chooses among many by a length that is random here. */
static inline void keep_row(const char *from, char *to, Py_ssize_t kept, Py_ssize_t width) {
    Py_ssize_t done = to == from ? kept : 0;
    for (; done < kept && done + BLOCK <= width; done += BLOCK)
        memcpy(to + done, from + done, BLOCK);
    if (done < kept)
        memcpy(to + done, from + done, (size_t)(kept - done));
    memset(to + kept, 0, (size_t)(width - kept));
}

static void *keep(void *argument) {
    const Rows *rows = argument;
    const Py_ssize_t width = rows->n * rows->feature_bytes;
    for (Py_ssize_t row = rows->first; row < rows->end; row++) {
        const char *from = rows->in + row * width;
        if (row + 1 < rows->end)
            fetch(from + width, kept_in(rows, row + 1) * rows->feature_bytes);
        keep_row(from, rows->out + row * width, kept_in(rows, row) * rows->feature_bytes, width);
    }
    return NULL;
}

static void keep_in_threads(Rows all, Py_ssize_t threads) {
#ifndef _WIN32
    pthread_t started[MOST_THREADS];
    Rows parts[MOST_THREADS];
    int running[MOST_THREADS];
    const Py_ssize_t rows = all.end;
    for (Py_ssize_t part = 0; part < threads; part++) {
        parts[part] = all;
        parts[part].first = rows * part / threads;
        parts[part].end = rows * (part + 1) / threads;
        /* The caller does the last part itself, and any for which the system grants no thread. */
        running[part] = part < threads - 1 && !pthread_create(&started[part], NULL, keep, &parts[part]);
        if (!running[part])
            keep(&parts[part]);
    }
    for (Py_ssize_t part = 0; part < threads; part++)
        if (running[part])
            pthread_join(started[part], NULL);
#else
    keep(&all);
#endif
}

static PyObject *keep_rows(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 8) {
        PyErr_SetString(PyExc_TypeError, "keep_rows(in, out, k, fractional, rows, n, feature_bytes, threads) takes 8 ints");
        return NULL;
    }
    Rows all;
    all.in = PyLong_AsVoidPtr(args[0]);
    all.out = PyLong_AsVoidPtr(args[1]);
    all.k = PyLong_AsVoidPtr(args[2]);
    all.fractional = PyObject_IsTrue(args[3]);
    all.first = 0;
    all.end = PyLong_AsSsize_t(args[4]);
    all.n = PyLong_AsSsize_t(args[5]);
    all.feature_bytes = PyLong_AsSsize_t(args[6]);
    Py_ssize_t threads = PyLong_AsSsize_t(args[7]);
    if (PyErr_Occurred())
        return NULL;
    if (threads > MOST_THREADS)
        threads = MOST_THREADS;
    if (threads > all.end)
        threads = all.end;
    Py_BEGIN_ALLOW_THREADS
    if (threads > 1)
        keep_in_threads(all, threads);
    else
        keep(&all);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"keep_rows", (PyCFunction)(void (*)(void))keep_rows, METH_FASTCALL,
     "keep_rows(in, out, k, fractional, rows, n, feature_bytes, threads): addresses and sizes; out may be in."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_rows", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__rows(void) { return PyModule_Create(&definition); }
