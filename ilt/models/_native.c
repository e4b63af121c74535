/* The forward passes of a rollout's steps: a decoder with cached keys and values (see ilt/models/cache.py), and an MLP.
 *
 * A step of a small model is a hundred operations on arrays of a few kilobytes. Called one by one from Python, with
 * caches that the simulator has just filled, they take several times as long as their arithmetic. Here, they take one
 * call.
 *
 * Arrays are float32, except for slots and steps, which are int64. Rows of weights, biases, inputs and outputs are padded
 * with zeros to a multiple of LANES numbers, and the number of rows of inputs and outputs to a multiple of ROWS. Cached
 * tokens are padded likewise, with a bias of -inf. Every row is computed in the same order of operations, wherever it
 * stands in a batch.
 */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16 /* numbers in the widest vector registers, AVX-512 */
#define ROWS 4   /* rows that share each load of a weight */

#define INLINE static inline __attribute__((always_inline))

typedef Py_ssize_t Size;
typedef struct {
    Size n_in, n_out;
    const float *weight, *bias; /* (n_in, n_out), (n_out,) */
} Affine;

typedef struct {
    Affine qkv, attention_out, mlp_in, mlp_out;
    Size n_tokens, size, n_rows; /* tokens in a ring, without and with padding; rows of `bias` */
    const float *bias;           /* (n_rows, n_new, size): added to scores, -inf where a token does not attend */
    float *keys, *values;        /* (n_slots, n_head, head_dim, size), (n_slots, n_head, size, head_dim) */
} Layer;

typedef struct {
    Size n_layer, n, n_new, n_slots, n_head, head_dim, width; /* width: d_model with padding */
    Layer *layers;
    Affine head;
    Size per_step, state_index, n_rope;    /* tokens per step, index of the state's, rows of `rope` */
    const int64_t *slots;                  /* (n,) */
    int64_t *steps;                        /* (n_slots,): processed so far in each slot's episode */
    const float *rope;                     /* (n_rope, head_dim): cosines and sines, alternately, from token -1; or NULL */
    float *x, *scratch, *out; /* (n, n_new, width), (…,), (n, head.n_out); x and out are padded to ROWS */
} Step;

/* --- arithmetic --- */

/* exp(x) for x of at most 0, with the polynomial of Cephes' expf (Moshier); 0 below -87. */
INLINE float exponential(float given) {
    const float x = given > -87.0f ? given : -87.0f, n = floorf(x * 1.44269504f + 0.5f), r = x - n * 0.69314718f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const union { uint32_t bits; float value; } power = {(uint32_t)((int32_t)n + 127) << 23};
    return given > -87.0f ? p * power.value : given == given ? 0.0f : given;
}

/* GELU with the error function of Abramowitz and Stegun, 7.1.26, which is accurate to 1.5e-7. */
INLINE float gelu(float x) {
    const float z = fabsf(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
    const float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    const float complement = p * exponential(-z * z);
    return 0.5f * x * (x > 0.0f ? 2.0f - complement : complement);
}

/* Columns j to j + n of `affine`; n must be a compile-time constant. */
INLINE void columns(const float *x, Size n_rows, Size stride, const Affine *a, float *y, int add, Size j, const int n) {
    for (Size row = 0; row < n_rows; row += ROWS) {
        float sums[ROWS][2 * LANES];
        for (int i = 0; i < ROWS; i++)
            for (int l = 0; l < n; l++) sums[i][l] = a->bias[j + l];
        for (Size k = 0; k < a->n_in; k++) {
            const float *weight = a->weight + k * a->n_out + j;
            for (int i = 0; i < ROWS; i++) {
                const float value = x[(row + i) * stride + k];
                for (int l = 0; l < n; l++) sums[i][l] += value * weight[l];
            }
        }
        for (int i = 0; i < ROWS; i++) {
            float *to = y + (row + i) * a->n_out + j;
            for (int l = 0; l < n; l++) to[l] = add ? to[l] + sums[i][l] : sums[i][l];
        }
    }
}

/* y (n_rows, n_out) = x (n_rows, stride) weight + bias, or that is added to y. n_rows is a multiple of ROWS. */
INLINE void affine(const float *x, Size n_rows, Size stride, const Affine *a, float *y, int add) {
    Size j = 0;
    for (; j + 2 * LANES <= a->n_out; j += 2 * LANES) columns(x, n_rows, stride, a, y, add, j, 2 * LANES);
    if (j < a->n_out) columns(x, n_rows, stride, a, y, add, j, LANES);
}

/* LayerNorm without scale and shift of centered rows x (n_rows, width), of which d_model numbers are not padding. */
INLINE void normalize(const float *x, Size n_rows, Size width, Size d_model, float *y) {
    for (Size row = 0; row < n_rows; row++, x += width, y += width) {
        float sum = 0.0f;
        for (Size i = 0; i < width; i++) sum += x[i] * x[i];
        const float scale = 1.0f / sqrtf(sum / d_model + 1e-5f);
        for (Size i = 0; i < width; i++) y[i] = x[i] * scale;
    }
}

/* Rotate the queries and keys of a token, as complex numbers, and store keys and values in the ring of its episode. */
INLINE void store(const Step *step, const Layer *layer, float *restrict qkv, const float *restrict turn, Size slot, int64_t token) {
    const Size n_head = step->n_head, head_dim = step->head_dim, size = layer->size;
    for (Size head = 0; turn && head < 2 * n_head; head++)
        for (Size c = 0; c < head_dim; c += 2) {
            float *pair = qkv + head * head_dim + c;
            const float real = pair[0], imaginary = pair[1];
            pair[0] = real * turn[c] - imaginary * turn[c + 1];
            pair[1] = real * turn[c + 1] + imaginary * turn[c];
        }
    const Size place = (Size)((token % layer->n_tokens + layer->n_tokens) % layer->n_tokens);
    const float *key = qkv + n_head * head_dim, *value = key + n_head * head_dim;
    float *keys = layer->keys + slot * n_head * head_dim * size, *values = layer->values + slot * n_head * head_dim * size;
    for (Size head = 0; head < n_head; head++)
        for (Size c = 0; c < head_dim; c++) {
            keys[(head * head_dim + c) * size + place] = *key++;
            values[(head * size + place) * head_dim + c] = *value++;
        }
}

/* Softmax attention of one query (head_dim,) over the keys (head_dim, size) and values (size, head_dim) of a ring. */
INLINE void attend(const float *restrict query, const float *restrict keys, const float *restrict values,
                   const float *restrict bias, Size size, Size n_tokens, Size head_dim, float *restrict scores,
                   float *restrict y) {
    memcpy(scores, bias, size * sizeof(float));
    for (Size c = 0; c < head_dim; c++)
        for (Size s = 0; s < size; s++) scores[s] += query[c] * keys[c * size + s];
    float top = scores[0], sum = 0.0f;
    for (Size s = 1; s < size; s++) top = scores[s] > top ? scores[s] : top;
    for (Size s = 0; s < size; s++) sum += scores[s] = exponential(scores[s] - top);
    const float share = 1.0f / sum;
    for (Size c = 0; c < head_dim; c++) y[c] = 0.0f;
    for (Size s = 0; s < n_tokens; s++)
        for (Size c = 0; c < head_dim; c++) y[c] += scores[s] * values[s * head_dim + c];
    for (Size c = 0; c < head_dim; c++) y[c] *= share;
}

/* Index of the current state's token in the episode of a slot. */
INLINE Size newest(const Step *step, Size slot) {
    return step->per_step * (Size)step->steps[slot] + step->state_index;
}

INLINE Size padded(Size n_rows) { return (n_rows + ROWS - 1) / ROWS * ROWS; }

INLINE void run_step(const Step *step) {
    const Size n = step->n, n_new = step->n_new, n_head = step->n_head, head_dim = step->head_dim, width = step->width;
    const Size d_model = n_head * head_dim;
    Size n_rows = padded(n * n_new);
    float *x = step->x, *last = step->scratch, *normal = last + padded(n) * width, *rest = normal + n_rows * width;
    for (Size l = 0; l < step->n_layer; l++) {
        const Layer *layer = step->layers + l;
        const Size first = l == step->n_layer - 1 ? n_new - 1 : 0, n_read = n_new - first, size = layer->size;
        const Size stride = layer->qkv.n_out;
        float *qkv = rest, *y = qkv + n_rows * stride, *scores = y + n_rows * d_model;
        normalize(x, n_rows, width, d_model, normal);
        affine(normal, n_rows, width, &layer->qkv, qkv, 0);
        for (Size i = 0; i < n; i++) {
            const Size slot = (Size)step->slots[i], half = layer->n_rows / 2, done = (Size)step->steps[slot];
            const float *bias = layer->bias + (done < half ? done : half + done % half) * n_new * size;
            for (Size t = 0; t < n_new; t++) {
                const Size token = newest(step, slot) - n_new + 1 + t;
                const float *turn = step->rope ? step->rope + (token + 1) * head_dim : NULL;
                store(step, layer, qkv + (i * n_new + t) * stride, turn, slot, token);
            }
            for (Size t = first; t < n_new; t++)
                for (Size head = 0; head < n_head; head++) {
                    const float *query = qkv + (i * n_new + t) * stride + head * head_dim, *add = bias + t * size;
                    const Size cached = (slot * d_model + head * head_dim) * size;
                    const float *keys = layer->keys + cached, *values = layer->values + cached;
                    float *to = y + (i * n_read + t - first) * d_model + head * head_dim;
                    if (head_dim == LANES) /* as in the models of conf/model: one register */
                        attend(query, keys, values, add, size, layer->n_tokens, LANES, scores, to);
                    else
                        attend(query, keys, values, add, size, layer->n_tokens, head_dim, scores, to);
                }
        }
        if (first > 0) { /* only the newest token of the last layer is read */
            for (Size i = 0; i < n; i++)
                memcpy(last + i * width, x + (i * n_new + first) * width, width * sizeof(float));
            memset(last + n * width, 0, (padded(n) - n) * width * sizeof(float));
            x = last;
        }
        n_rows = padded(n * n_read);
        memset(y + n * n_read * d_model, 0, (n_rows - n * n_read) * d_model * sizeof(float));
        affine(y, n_rows, d_model, &layer->attention_out, x, 1);
        normalize(x, n_rows, width, d_model, normal);
        float *hidden = rest;
        const Size n_hidden = layer->mlp_in.n_out;
        affine(normal, n_rows, width, &layer->mlp_in, hidden, 0);
        for (Size i = 0; i < n_rows * n_hidden; i++) hidden[i] = gelu(hidden[i]);
        affine(hidden, n_rows, n_hidden, &layer->mlp_out, x, 1);
    }
    normalize(x, n_rows, width, d_model, normal);
    affine(normal, n_rows, width, &step->head, step->out, 0);
    for (Size i = 0; i < n; i++) step->steps[step->slots[i]]++;
}

typedef struct {
    Size n_layer, n_rows, stride; /* n_rows: a multiple of ROWS; stride: numbers in a row of x */
    Affine *layers;
    int tanh_between, tanh_after; /* otherwise ReLU, and no activation after the last layer */
    const float *x;               /* (n_rows, stride) */
    float *hidden[2], *out;       /* (n_rows, the widest layer), (n_rows, n_out of the last layer) */
} Perceptron;

INLINE float hyperbolic_tangent(float x) {
    const float e = exponential(-2.0f * fabsf(x)), y = (1.0f - e) / (1.0f + e);
    return x < 0.0f ? -y : y;
}

INLINE void run_perceptron(const Perceptron *mlp) {
    const float *x = mlp->x;
    Size stride = mlp->stride;
    for (Size l = 0; l < mlp->n_layer; l++) {
        const int last = l == mlp->n_layer - 1;
        const Size n_out = mlp->layers[l].n_out;
        float *y = last ? mlp->out : mlp->hidden[l % 2];
        affine(x, mlp->n_rows, stride, mlp->layers + l, y, 0);
        if (last ? mlp->tanh_after : mlp->tanh_between)
            for (Size i = 0; i < mlp->n_rows * n_out; i++) y[i] = hyperbolic_tangent(y[i]);
        else if (!last)
            for (Size i = 0; i < mlp->n_rows * n_out; i++) y[i] = y[i] < 0.0f ? 0.0f : y[i]; /* NaN stays */
        x = y, stride = n_out;
    }
}

/* --- one copy for each generation of x86 --- */

#if defined(__x86_64__) && defined(__GNUC__)
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")))
#define FOR_EVERY_CPU(name, run, Argument)                                                                        \
    static void name##_anywhere(const Argument *given) { run(given); }                                            \
    AVX2 static void name##_avx2(const Argument *given) { run(given); }                                           \
    AVX512 static void name##_avx512(const Argument *given) { run(given); }                                       \
    static void name(const Argument *given) {                                                                     \
        __builtin_cpu_init();                                                                                     \
        if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&                           \
            __builtin_cpu_supports("avx512bw"))                                                                   \
            name##_avx512(given);                                                                                 \
        else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))                                 \
            name##_avx2(given);                                                                                   \
        else                                                                                                      \
            name##_anywhere(given);                                                                               \
    }
#else
#define FOR_EVERY_CPU(name, run, Argument) \
    static void name(const Argument *given) { run(given); }
#endif

FOR_EVERY_CPU(decode, run_step, Step)
FOR_EVERY_CPU(perceive, run_perceptron, Perceptron)

/* --- arguments --- */

typedef struct {
    Py_buffer *views;
    Size n_views;
} Views;

/* Return the memory of an array of `n` numbers (any number if n < 0) of `itemsize` bytes; NULL with an error. */
static void *memory(Views *views, PyObject *array, Size n, Size itemsize, int writable) {
    Py_buffer *view = views->views + views->n_views;
    if (PyObject_GetBuffer(array, view, PyBUF_ND | PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0)) < 0) return NULL;
    views->n_views++;
    if (view->itemsize != itemsize) {
        PyErr_Format(PyExc_ValueError, "array %zd must have items of %zd bytes, got %zd", views->n_views - 1, itemsize,
                     view->itemsize);
        return NULL;
    }
    if (n >= 0 && view->len != n * itemsize) {
        PyErr_Format(PyExc_ValueError, "array %zd must have %zd items, got %zd", views->n_views - 1, n,
                     view->len / itemsize);
        return NULL;
    }
    return view->buf;
}

/* Read a weight (n_in, n_out) and a bias (n_out,) at `index` of a tuple. Return whether they fit. */
static int read_affine(Views *views, PyObject *tuple, Size index, Size n_in, Affine *a) {
    a->weight = memory(views, PyTuple_GetItem(tuple, index), -1, sizeof(float), 0);
    if (!a->weight) return 0;
    const Py_buffer *view = views->views + views->n_views - 1;
    a->n_in = n_in;
    a->n_out = view->len / (Size)sizeof(float) / n_in;
    if (view->len != n_in * a->n_out * (Size)sizeof(float) || a->n_out % LANES) {
        PyErr_Format(PyExc_ValueError, "a weight must be of shape (%zd, a multiple of %d)", n_in, LANES);
        return 0;
    }
    a->bias = memory(views, PyTuple_GetItem(tuple, index + 1), a->n_out, sizeof(float), 0);
    return a->bias != NULL;
}

#define PER_LAYER 11

static int read_layer(Views *views, PyObject *tuple, Step *step, Layer *layer) {
    const Size d_model = step->n_head * step->head_dim;
    long n_tokens;
    if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != PER_LAYER + 1) {
        PyErr_SetString(PyExc_ValueError, "a layer must be a tuple of 11 arrays and a number");
        return 0;
    }
    if (!read_affine(views, tuple, 0, d_model, &layer->qkv)) return 0;
    if (!read_affine(views, tuple, 2, d_model, &layer->attention_out)) return 0;
    if (!read_affine(views, tuple, 4, d_model, &layer->mlp_in)) return 0;
    if (!read_affine(views, tuple, 6, 4 * d_model, &layer->mlp_out)) return 0;
    if (!(layer->bias = memory(views, PyTuple_GetItem(tuple, 8), -1, sizeof(float), 0))) return 0;
    const Py_buffer *bias = views->views + views->n_views - 1;
    if (bias->ndim != 3 || bias->shape[1] != step->n_new || bias->shape[0] < 2 || bias->shape[2] % LANES) {
        PyErr_SetString(PyExc_ValueError, "a layer's bias must be of shape (rows, new tokens, a multiple of 16)");
        return 0;
    }
    layer->n_rows = bias->shape[0], layer->size = bias->shape[2];
    const Size n_cached = step->n_slots * d_model * layer->size;
    if (!(layer->keys = memory(views, PyTuple_GetItem(tuple, 9), n_cached, sizeof(float), 1))) return 0;
    if (!(layer->values = memory(views, PyTuple_GetItem(tuple, 10), n_cached, sizeof(float), 1))) return 0;
    n_tokens = PyLong_AsLong(PyTuple_GetItem(tuple, 11));
    if (n_tokens < 1 || n_tokens > layer->size || layer->qkv.n_out < 3 * d_model || layer->mlp_in.n_out < 4 * d_model ||
        layer->attention_out.n_out != step->width || layer->mlp_out.n_out != step->width) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "the arrays of a layer do not fit together");
        return 0;
    }
    layer->n_tokens = n_tokens;
    return 1;
}

/* Return how many numbers `decode` needs in `scratch`. */
static Size n_scratch(const Step *step) {
    const Size n_rows = padded(step->n * step->n_new), d_model = step->n_head * step->head_dim;
    Size most = 0;
    for (Size l = 0; l < step->n_layer; l++) {
        const Layer *layer = step->layers + l;
        const Size attention = n_rows * (layer->qkv.n_out + d_model) + layer->size, hidden = n_rows * layer->mlp_in.n_out;
        most = attention > most ? attention : most;
        most = hidden > most ? hidden : most;
    }
    return most + 2 * n_rows * step->width;
}

/* Read the arguments. Return whether they fit; `is_long`, whether an episode is longer than `rope`. */
static int read_step(Views *views, PyObject *args, Step *step, int *is_long) {
    PyObject *layers, *head, *slots, *steps, *x, *rope, *out;
    if (!PyArg_ParseTuple(args, "O!O!OOOOOnnnnn", &PyTuple_Type, &layers, &PyTuple_Type, &head, &slots, &steps, &x, &rope,
                          &out, &step->n_head, &step->head_dim, &step->n_new, &step->per_step, &step->state_index))
        return 0;
    step->n_layer = PyTuple_Size(layers);
    if (PyTuple_Size(head) != 2 || step->n_layer < 1 || step->n_new < 1 || step->per_step < 1 || step->state_index < 0 ||
        step->head_dim < 1 || step->n_head < 1 || step->n_head > PY_SSIZE_T_MAX / 64 / step->head_dim ||
        (rope != Py_None && step->head_dim % 2)) {
        PyErr_SetString(PyExc_ValueError, "there must be layers, a head of two arrays, and sizes");
        return 0;
    }
    views->views = PyMem_Calloc(step->n_layer * PER_LAYER + 7, sizeof(Py_buffer));
    step->layers = PyMem_Calloc(step->n_layer, sizeof(Layer));
    if (!views->views || !step->layers) {
        PyErr_NoMemory();
        return 0;
    }
    if (!(step->slots = memory(views, slots, -1, sizeof(int64_t), 0))) return 0;
    step->n = views->views[0].len / (Size)sizeof(int64_t);
    if (!(step->steps = memory(views, steps, -1, sizeof(int64_t), 1))) return 0;
    step->n_slots = views->views[1].len / (Size)sizeof(int64_t);
    const Size d_model = step->n_head * step->head_dim;
    step->width = (d_model + LANES - 1) / LANES * LANES;
    if (!read_affine(views, head, 0, d_model, &step->head)) return 0;
    if (!(step->x = memory(views, x, padded(step->n * step->n_new) * step->width, sizeof(float), 1))) return 0;
    if (!(step->out = memory(views, out, padded(step->n) * step->head.n_out, sizeof(float), 1))) return 0;
    step->rope = NULL;
    if (rope != Py_None) {
        if (!(step->rope = memory(views, rope, -1, 2 * sizeof(float), 0))) return 0;
        step->n_rope = views->views[views->n_views - 1].len / (Size)sizeof(float) / step->head_dim;
    }
    for (Size l = 0; l < step->n_layer; l++)
        if (!read_layer(views, PyTuple_GetItem(layers, l), step, step->layers + l)) return 0;
    for (Size i = 0; i < step->n; i++) {
        const int64_t slot = step->slots[i];
        if (slot < 0 || slot >= step->n_slots || step->steps[slot] < 0 ||
            newest(step, (Size)slot) - step->n_new + 1 < -1) {
            PyErr_Format(PyExc_ValueError, "slots must be below %zd, and have at least 0 steps", step->n_slots);
            return 0;
        }
        *is_long |= step->rope && newest(step, (Size)slot) + 1 >= step->n_rope;
    }
    return 1;
}

static PyObject *py_decode(PyObject *module, PyObject *args) {
    Views views = {NULL, 0};
    Step step = {0};
    PyObject *result = NULL;
    int is_long = 0;
    if (read_step(&views, args, &step, &is_long)) {
        if (is_long) {
            result = Py_NewRef(Py_False);
        } else if ((step.scratch = PyMem_Malloc(n_scratch(&step) * sizeof(float)))) {
            Py_BEGIN_ALLOW_THREADS
            decode(&step);
            Py_END_ALLOW_THREADS
            result = Py_NewRef(Py_True);
        } else {
            PyErr_NoMemory();
        }
    }
    for (Size i = 0; i < views.n_views; i++) PyBuffer_Release(views.views + i);
    PyMem_Free(views.views);
    PyMem_Free(step.layers);
    PyMem_Free(step.scratch);
    return result;
}

static int read_perceptron(Views *views, PyObject *args, Perceptron *mlp) {
    PyObject *layers, *x, *out;
    if (!PyArg_ParseTuple(args, "O!OOnpp", &PyTuple_Type, &layers, &x, &out, &mlp->n_rows, &mlp->tanh_between,
                          &mlp->tanh_after))
        return 0;
    mlp->n_layer = PyTuple_Size(layers) / 2;
    views->views = PyMem_Calloc(2 * mlp->n_layer + 2, sizeof(Py_buffer));
    mlp->layers = PyMem_Calloc(mlp->n_layer, sizeof(Affine));
    if (!views->views || !mlp->layers) {
        PyErr_NoMemory();
        return 0;
    }
    if (mlp->n_layer < 1 || PyTuple_Size(layers) % 2 || mlp->n_rows < 1 || mlp->n_rows % ROWS) {
        PyErr_SetString(PyExc_ValueError, "there must be weights and biases, and a multiple of four rows");
        return 0;
    }
    if (!(mlp->x = memory(views, x, -1, sizeof(float), 0))) return 0;
    mlp->stride = views->views[0].len / (Size)sizeof(float) / mlp->n_rows;
    Size width = mlp->stride, most = 0;
    for (Size l = 0; l < mlp->n_layer; l++) {
        PyObject *weight = PyTuple_GetItem(layers, 2 * l);
        Size n_in = PyObject_Length(weight);
        if (n_in < 1 || n_in > width || !read_affine(views, layers, 2 * l, n_in, mlp->layers + l)) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a layer must fit the one before");
            return 0;
        }
        width = mlp->layers[l].n_out;
        most = width > most ? width : most;
    }
    if (views->views[0].len != mlp->n_rows * mlp->stride * (Size)sizeof(float)) {
        PyErr_SetString(PyExc_ValueError, "the inputs must fill their rows");
        return 0;
    }
    if (!(mlp->out = memory(views, out, mlp->n_rows * width, sizeof(float), 1))) return 0;
    if (!(mlp->hidden[0] = PyMem_Malloc(2 * mlp->n_rows * most * sizeof(float)))) {
        PyErr_NoMemory();
        return 0;
    }
    mlp->hidden[1] = mlp->hidden[0] + mlp->n_rows * most;
    return 1;
}

static PyObject *py_perceive(PyObject *module, PyObject *args) {
    Views views = {NULL, 0};
    Perceptron mlp = {0};
    const int fits = read_perceptron(&views, args, &mlp);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        perceive(&mlp);
        Py_END_ALLOW_THREADS
    }
    for (Size i = 0; i < views.n_views; i++) PyBuffer_Release(views.views + i);
    PyMem_Free(views.views);
    PyMem_Free(mlp.layers);
    PyMem_Free(mlp.hidden[0]);
    return fits ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef methods[] = {
    {"decode", py_decode, METH_VARARGS, "Run a decoder on new tokens; see ilt/models/_native.pyi."},
    {"perceive", py_perceive, METH_VARARGS, "Run an MLP; see ilt/models/_native.pyi."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) { return PyModule_Create(&definition); }
