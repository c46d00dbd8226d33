// One step of a decoder that writes text, in fp32 or with weights in int8; models/decoding/compiled_step.py compiles and calls it.
//
// Every sum is taken in an order that depends on its own row alone: neither on how many rows go through the network together, nor on threads. So a text gets
// the same bits alone, beside others, and however its prompt was cut into chunks.
#include "registers.h"
#include <cmath>
#include <omp.h>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

typedef int8_t Bytes __attribute__((vector_size(LANES), aligned(1)));

static const int PAGE = 16;    // tokens of a page of keys and values
static const int PANEL = 64;   // outputs that lie together: weights are laid out as (panels, inputs, 64)
static const int GROUP = 64;   // inputs that share a scale in int8: scales are laid out as (panels, groups, 64)
static const int TALL = 6;     // rows of a tile
#ifdef __AVX512F__
static constexpr int wide(int) { return 4; }  // vectors of a tile of so many rows: as many sums as the 32 registers hold
#else
static constexpr int wide(int rows) { return rows == 1 ? 8 : rows <= 3 ? 4 : 2; }  // of 16 registers; few sums would wait for each other
#endif
static const int AHEAD = 24;  // inputs by which weights are asked of the memory before they are needed

extern "C" {
struct Matrix { const void* weight; const float* scale; const float* bias; int32_t outputs, inputs; };  // scale: where weights are int8
struct Block {
    const float* input_norm; Matrix qkv; const float* q_norm; const float* k_norm; Matrix output; const float* after_attention;
    const float* feed_norm; Matrix gate_up; Matrix down; const float* after_feed; const float* cos; const float* sin; float* keys; float* values; int64_t window;
};
struct Network {
    const float* embedding; const float* norm; Matrix head; const Block* block;
    float embedding_scale, eps, scale;
    int32_t blocks, width, inner, heads, key_heads, head_width, gelu;
};
struct Rows {  // tables: the pages of every text, (texts, pages)
    const int64_t* tokens; const int32_t* positions; const int32_t* text; const int32_t* tables; const int64_t* wanted;
    int32_t count, pages, wanted_count;
};
}

#ifdef __AVX512F__
static inline Floats load(const int8_t* at) { return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)at))); }
#elif defined(__AVX2__)
static inline Floats load(const int8_t* at) { return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)at))); }
#else
static inline Floats load(const int8_t* at) { return __builtin_convertvector(*(const Bytes*)at, Floats); }
#endif

// sum += x × weight, for some inputs of M rows and N × 16 outputs
template <int M, int N, typename T>
static inline void tile(const float* x, int inputs, int from, int to, const T* weight, Floats (&sum)[M][N]) {
    for (int k = from; k < to; k++) {
        Floats w[N];
        for (size_t byte = 0; byte < N * LANES * sizeof(T); byte += 64) __builtin_prefetch((const char*)(weight + (int64_t)(k + AHEAD) * PANEL) + byte);
        for (int n = 0; n < N; n++) w[n] = load(weight + (int64_t)k * PANEL + n * LANES);
        for (int m = 0; m < M; m++) {
            float each = x[(int64_t)m * inputs + k];
            for (int n = 0; n < N; n++) sum[m][n] += each * w[n];
        }
    }
}

template <int M, int N>
static inline void sum_up(const Matrix& matrix, const float* x, int panel, int at, const float*, Floats (&sum)[M][N]) {
    tile<M, N, float>(x, matrix.inputs, 0, matrix.inputs, (const float*)matrix.weight + (int64_t)panel * PANEL * matrix.inputs + at, sum);
}

// Weights in int8 have a scale for each output and each group of inputs.
template <int M, int N>
static inline void sum_up(const Matrix& matrix, const float* x, int panel, int at, const int8_t*, Floats (&sum)[M][N]) {
    const int8_t* weight = (const int8_t*)matrix.weight + (int64_t)panel * PANEL * matrix.inputs + at;
    const float* scale = matrix.scale + (int64_t)panel * PANEL * ((matrix.inputs + GROUP - 1) / GROUP) + at;
    for (int from = 0; from < matrix.inputs; from += GROUP, scale += PANEL) {
        Floats part[M][N] = {};
        tile<M, N, int8_t>(x, matrix.inputs, from, from + GROUP < matrix.inputs ? from + GROUP : matrix.inputs, weight, part);
        for (int n = 0; n < N; n++) {
            Floats by = load(scale + n * LANES);
            for (int m = 0; m < M; m++) sum[m][n] += part[m][n] * by;
        }
    }
}

template <int M, int N, typename T>
static void part(const Matrix& matrix, const float* x, int panel, const float* residual, float* y) {
    for (int at = 0; at < PANEL; at += N * LANES) {
        static_assert(PANEL % (N * LANES) == 0, "a panel is some whole tiles");
        int first = panel * PANEL + at, count = matrix.outputs - first < N * LANES ? matrix.outputs - first : N * LANES;
        if (count <= 0) return;
        Floats sum[M][N] = {};
        sum_up<M, N>(matrix, x, panel, at, (const T*)nullptr, sum);
        for (int m = 0; m < M; m++) for (int i = 0; i < count; i++) {
            float told = sum[m][i / LANES][i % LANES];
            if (matrix.bias) told += matrix.bias[first + i];
            int64_t place = (int64_t)m * matrix.outputs + first + i;
            y[place] = residual ? residual[place] + told : told;
        }
    }
}

template <typename T>
static void panel_rows(const Matrix& matrix, const float* x, int rows, int panel, const float* residual, float* y) {
    for (int row = 0; row < rows;) {
        const float* from = x + (int64_t)row * matrix.inputs;
        int64_t to = (int64_t)row * matrix.outputs;
        const float* rest = residual ? residual + to : nullptr;
        int left = rows - row;
        if (left == TALL + 1 || left == TALL + 2) left = (left + 1) / 2;  // two halves, and not a whole tile and a very small one
#define CASE(M) case M: part<M, wide(M), T>(matrix, from, panel, rest, y + to); row += M; break;
        switch (left < TALL ? left : TALL) {
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
        }
#undef CASE
    }
}

// y = x × weight with bias and residual; called by all threads of a region
static void multiply(const Matrix& matrix, const float* x, int rows, const float* residual, float* y) {
    int panels = (matrix.outputs + PANEL - 1) / PANEL;
#pragma omp for schedule(dynamic, panels > 256 ? 8 : 1)
    for (int panel = 0; panel < panels; panel++) {
        if (matrix.scale) panel_rows<int8_t>(matrix, x, rows, panel, residual, y);
        else panel_rows<float>(matrix, x, rows, panel, residual, y);
    }
}

static void norm_row(const float* x, const float* weight, int width, float eps, float* y) {
    Floats squares = Floats{};
    int k = 0;
    for (; k + LANES <= width; k += LANES) squares += load(x + k) * load(x + k);
    float total = add_up(squares);
    for (; k < width; k++) total += x[k] * x[k];
    float factor = 1.0f / std::sqrt(total / width + eps);
    for (k = 0; k < width; k++) y[k] = x[k] * factor * weight[k];
}

static void norm(const float* x, const float* weight, int rows, int width, float eps, float* y) {
#pragma omp for schedule(static)
    for (int row = 0; row < rows; row++) norm_row(x + (int64_t)row * width, weight, width, eps, y + (int64_t)row * width);
}

// x += norm(told)
static void add_normed(const float* told, const float* weight, int rows, int width, float eps, float* x) {
#pragma omp for schedule(static)
    for (int row = 0; row < rows; row++) {
        std::vector<float> normed(width);
        norm_row(told + (int64_t)row * width, weight, width, eps, normed.data());
        for (int k = 0; k < width; k++) x[(int64_t)row * width + k] += normed[k];
    }
}

static void activate(const float* gate_up, int rows, int inner, int gelu, float* y) {
    int pieces = (inner + 255) / 256;
#pragma omp for schedule(static)
    for (int piece = 0; piece < rows * pieces; piece++) {
        int row = piece / pieces, from = piece % pieces * 256, to = from + 256 < inner ? from + 256 : inner;
        const float* gate = gate_up + (int64_t)row * 2 * inner;
        for (int k = from; k < to; k += LANES) {
            int count = to - k < LANES ? to - k : LANES;
            Floats g = Floats{}, u = Floats{};
            std::memcpy(&g, gate + k, count * 4);
            std::memcpy(&u, gate + inner + k, count * 4);
            Floats bent;
            if (gelu) {
                Floats inside = 0.7978845608028654f * (g + 0.044715f * g * g * g);
                bent = g * (1.0f - 1.0f / (exponential(2.0f * inside) + 1.0f));  // (1 + tanh) / 2
            } else bent = g / (1.0f + exponential(-g));
            Floats told = bent * u;
            std::memcpy(y + (int64_t)row * inner + k, &told, count * 4);
        }
    }
}

static void rotate(float* x, const float* cos, const float* sin, int width) {
    for (int k = 0, half = width / 2; k < half; k++) {
        float one = x[k], other = x[k + half];
        x[k] = one * cos[k] - other * sin[k];
        x[k + half] = other * cos[k] + one * sin[k];
    }
}

// Norm and rotate queries and keys; keys and values go into the cache: keys as (pages, heads, width, 16), values as (pages, heads, 16, width).
static void place(const Network& net, const Block& block, const Rows& rows, float* qkv) {
    int width = net.head_width, all = net.heads + 2 * net.key_heads;
#pragma omp for schedule(static)
    for (int item = 0; item < rows.count * all; item++) {
        int row = item / all, head = item % all, position = rows.positions[row];
        float* x = qkv + (int64_t)item * width;
        bool value = head >= net.heads + net.key_heads, key = !value && head >= net.heads;
        const float* weight = value ? nullptr : key ? block.k_norm : block.q_norm;
        if (weight) norm_row(x, weight, width, net.eps, x);
        if (!value && block.cos) rotate(x, block.cos + (int64_t)position * width / 2, block.sin + (int64_t)position * width / 2, width);
        if (head < net.heads) continue;
        int own = (head - net.heads) % net.key_heads, slot = position % PAGE;
        int64_t page = rows.tables[(int64_t)rows.text[row] * rows.pages + position / PAGE];
        int64_t at = (page * net.key_heads + own) * width * PAGE;
        if (value) std::memcpy(block.values + at + (int64_t)slot * width, x, width * 4);
        else for (int k = 0; k < width; k++) block.keys[at + (int64_t)k * PAGE + slot] = x[k];
    }
}

// Of as many tokens of a page as a vector holds.
static Floats page_scores(const float* query, const float* keys, int width) {
    Floats sum[4] = {};
    int k = 0;
    for (; k + 4 <= width; k += 4) for (int i = 0; i < 4; i++) sum[i] += query[k + i] * load(keys + (int64_t)(k + i) * PAGE);
    for (; k < width; k++) sum[0] += query[k] * load(keys + (int64_t)k * PAGE);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Attention of one token in one head.
static void attend_one(const Network& net, const Block& block, const int32_t* table, int position, int own, const float* query, float* told) {
    int width = net.head_width, low = block.window && position + 1 > block.window ? position + 1 - (int)block.window : 0;
    int first = low / PAGE, last = position / PAGE;
    static thread_local std::vector<float> kept;
    if ((int)kept.size() < (last - first + 1) * PAGE) kept.resize((last - first + 64) * PAGE);
    float* scores = kept.data();
    Floats largest = broadcast(-INFINITY);
    Ints lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int page = first; page <= last; page++) {
        const float* keys = block.keys + ((int64_t)table[page] * net.key_heads + own) * width * PAGE;
        for (int slot = 0; slot < PAGE; slot += LANES) {
            Floats s = page_scores(query, keys + slot, width) * net.scale;
            Ints at = lane + (page * PAGE + slot);
            s = (at < low) | (at > position) ? broadcast(-INFINITY) : s;
            *(Floats*)(scores + (page - first) * PAGE + slot) = s;
            largest = s > largest ? s : largest;
        }
    }
    float most = largest[0];
    for (int i = 1; i < LANES; i++) most = largest[i] > most ? largest[i] : most;
    Floats sum = Floats{};
    for (int k = 0; k < width; k++) told[k] = 0;
    for (int page = first; page <= last; page++) {
        float* share = scores + (page - first) * PAGE;
        for (int slot = 0; slot < PAGE; slot += LANES) {
            Floats each = exponential(load(share + slot) - most);
            *(Floats*)(share + slot) = each;
            sum += each;
        }
        const float* values = block.values + ((int64_t)table[page] * net.key_heads + own) * width * PAGE;
        int from = page == first ? low % PAGE : 0, to = page == last ? position % PAGE + 1 : PAGE;
        for (int t = from; t < to; t++) {
            float each = share[t];
            for (int k = 0; k < width; k++) told[k] += each * values[(int64_t)t * width + k];
        }
    }
    float total = 1.0f / add_up(sum);
    for (int k = 0; k < width; k++) told[k] *= total;
}

static void attend(const Network& net, const Block& block, const Rows& rows, const float* qkv, float* told) {
    int width = net.head_width, all = net.heads + 2 * net.key_heads, shared = net.heads / net.key_heads;
#pragma omp for schedule(dynamic, 1)
    for (int item = 0; item < rows.count * net.heads; item++) {
        int head = item / rows.count, row = item % rows.count;  // neighbours in time read the same keys
        attend_one(net, block, rows.tables + (int64_t)rows.text[row] * rows.pages, rows.positions[row], head / shared,
                   qkv + ((int64_t)row * all + head) * width, told + ((int64_t)row * net.heads + head) * width);
    }
}

static void through_block(const Network& net, const Block& block, const Rows& rows, float* x, float* normed, float* wide, float* inner) {
    int count = rows.count, width = net.width;
    norm(x, block.input_norm, count, width, net.eps, normed);
    multiply(block.qkv, normed, count, nullptr, wide);
    place(net, block, rows, wide);
    attend(net, block, rows, wide, inner);
    if (block.after_attention) {
        multiply(block.output, inner, count, nullptr, normed);
        add_normed(normed, block.after_attention, count, width, net.eps, x);
    } else multiply(block.output, inner, count, x, x);
    norm(x, block.feed_norm, count, width, net.eps, normed);
    multiply(block.gate_up, normed, count, nullptr, wide);
    activate(wide, count, net.inner, net.gelu, inner);
    if (block.after_feed) {
        multiply(block.down, inner, count, nullptr, normed);
        add_normed(normed, block.after_feed, count, width, net.eps, x);
    } else multiply(block.down, inner, count, x, x);
}

// Tokens → logits of the wanted rows; room: width + width + the wider of qkv and gate_up + the wider of heads and inner, for each row.
extern "C" void luthier_decode_step(const Network* net, const Rows* rows, float* room, float* logits, int threads) {
    int64_t count = rows->count, width = net->width;
    int64_t wide_width = (net->heads + 2 * net->key_heads) * (int64_t)net->head_width;
    if (wide_width < 2 * (int64_t)net->inner) wide_width = 2 * (int64_t)net->inner;
    float *x = room, *normed = x + count * width, *wide = normed + count * width, *inner = wide + count * wide_width;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t row = 0; row < count; row++)
            for (int64_t k = 0; k < width; k++) x[row * width + k] = net->embedding[rows->tokens[row] * width + k] * net->embedding_scale;
        for (int layer = 0; layer < net->blocks; layer++) through_block(*net, net->block[layer], *rows, x, normed, wide, inner);
#pragma omp for schedule(static)
        for (int row = 0; row < rows->wanted_count; row++)
            norm_row(x + rows->wanted[row] * width, net->norm, width, net->eps, normed + row * width);
        if (rows->wanted_count) multiply(net->head, normed, rows->wanted_count, nullptr, logits);
    }
}

// A check of the products alone: y = x × weight + bias.
extern "C" void luthier_multiply(const Matrix* matrix, const float* x, int rows, float* y, int threads) {
#pragma omp parallel num_threads(threads)
    multiply(*matrix, x, rows, nullptr, y);
}
