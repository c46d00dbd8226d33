// One token of each text through the decoder of an encoder–decoder, in fp32; models/kernels/compiled_translation.py compiles and calls it.
//
// Every sum is taken in an order that depends on its own text alone: neither on how many texts go through the network together, nor on threads.
#include "registers.h"
#include <algorithm>
#include <cmath>
#include <omp.h>
#include <vector>

static const int PANEL = 64;  // outputs that lie together: weights are laid out as (panels, inputs, 64)
static const int TALL = 6;    // texts of a tile
static const int BROAD = LANES == 16 ? 4 : 2;  // vectors of a tile: as many sums as the registers hold
static const int TOGETHER = 24;  // texts that go through a panel while it is near

extern "C" {
struct Matrix { const float* weight; const float* bias; int32_t outputs, inputs; };
struct Norm { const float* weight; const float* bias; float eps; };  // weight: null where there is none
struct Block {  // keys and values of the texts: (rows, heads, places, head width); of the sources: (rows, heads, source places, head width)
    Norm own_norm; Matrix qkv, own_out;
    Norm crossing_norm; Matrix query, crossing_out;
    Norm feed_norm; Matrix up, down;
    float* keys; float* values; const float* source_keys; const float* source_values;
};
struct Network {
    const Block* block; Norm last; Matrix head; float scale;
    int32_t blocks, width, inner, heads, head_width, before, silu;
};
struct Texts {  // row: of each row that goes on, where it lies; writers: which text of its row wrote each place, (rows, beams, longest), null where each row has one
    const int32_t* row; const int32_t* source_length; const int32_t* writers; const int32_t* never;
    int32_t rows, beams, step, longest, places, source_places, nevers, candidates;
};
}

static inline void store(float* at, Floats x) { *(Floats*)at = x; }

static inline float largest(Floats x) {
    float most = x[0];
    for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
    return most;
}

// M rows of x times the 64 outputs of a panel, with bias, into y
template <int M>
static void tile(const float* x, int inputs, const float* weight, const float* bias, float* y, int64_t stride) {
    for (int at = 0; at < PANEL; at += BROAD * LANES) {
        Floats sum[M][BROAD] = {};
        for (int k = 0; k < inputs; k++) {
            Floats w[BROAD];
            for (int n = 0; n < BROAD; n++) w[n] = load(weight + (int64_t)k * PANEL + at + n * LANES);
            for (int m = 0; m < M; m++) {
                float each = x[(int64_t)m * inputs + k];
                for (int n = 0; n < BROAD; n++) sum[m][n] += each * w[n];
            }
        }
        for (int m = 0; m < M; m++)
            for (int n = 0; n < BROAD; n++) store(y + m * stride + at + n * LANES, bias ? sum[m][n] + load(bias + at + n * LANES) : sum[m][n]);
    }
}

static void tiles(const float* x, int rows, int inputs, const float* weight, const float* bias, float* y, int64_t stride) {
    for (int row = 0; row < rows;) {
        int left = rows - row;
        if (left == TALL + 1 || left == TALL + 2) left = (left + 1) / 2;
        const float* from = x + (int64_t)row * inputs;
        float* to = y + row * stride;
#define CASE(M) case M: tile<M>(from, inputs, weight, bias, to, stride); row += M; break;
        switch (left < TALL ? left : TALL) {
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
        }
#undef CASE
    }
}

enum After { NOTHING, ADD, RELU, SILU };

// y = x × weight + bias, whose outputs and bias are a multiple of 64; ADD: y += that. Called by all threads of a region.
static void multiply(const Matrix& matrix, const float* x, int rows, After after, float* y) {
    int chunks = (rows + TOGETHER - 1) / TOGETHER, items = chunks * (matrix.outputs / PANEL);
#pragma omp for schedule(static)
    for (int item = 0; item < items; item++) {
        int panel = item / chunks, first = item % chunks * TOGETHER, count = std::min(TOGETHER, rows - first);
        float told[TOGETHER * PANEL];
        tiles(x + (int64_t)first * matrix.inputs, count, matrix.inputs, matrix.weight + (int64_t)panel * PANEL * matrix.inputs,
              matrix.bias ? matrix.bias + panel * PANEL : nullptr, told, PANEL);
        for (int m = 0; m < count; m++)
            for (int n = 0; n < PANEL; n += LANES) {
                float* to = y + (int64_t)(first + m) * matrix.outputs + panel * PANEL + n;
                Floats each = load(told + m * PANEL + n);
                if (after == ADD) each += load(to);
                if (after == RELU) each = each < 0.0f ? Floats{} : each;
                if (after == SILU) each = each / (1.0f + exponential(-each));
                store(to, each);
            }
    }
}

static void norm(const Norm& norm, const float* x, int rows, int width, float* y) {
#pragma omp for schedule(static)
    for (int row = 0; row < rows; row++) {
        const float* from = x + (int64_t)row * width;
        float* to = y + (int64_t)row * width;
        Floats sum = Floats{}, squares = Floats{};
        for (int k = 0; k < width; k += LANES) sum += load(from + k);
        float mean = add_up(sum) / width;
        for (int k = 0; k < width; k += LANES) { Floats apart = load(from + k) - mean; squares += apart * apart; }
        float factor = 1.0f / std::sqrt(add_up(squares) / width + norm.eps);
        for (int k = 0; k < width; k += LANES) store(to + k, (load(from + k) - mean) * factor * load(norm.weight + k) + load(norm.bias + k));
    }
}

// Attention of one text in one head over `count` places, each of which lies where `place` says.
template <typename Place>
static void attend(const float* query, int count, int width, float scale, const float* keys, const float* values, Place place, float* told) {
    static thread_local std::vector<float> kept;
    if ((int)kept.size() < count + LANES) kept.resize(2 * count + LANES);
    float* share = kept.data();
    float most = -INFINITY;
    for (int i = 0; i < count; i++) {
        const float* key = keys + place(i) * width;
        Floats sum = Floats{};
        for (int k = 0; k < width; k += LANES) sum += load(query + k) * load(key + k);
        share[i] = add_up(sum) * scale;
        most = std::max(most, share[i]);
    }
    for (int i = count; i < count + LANES; i++) share[i] = -INFINITY;
    Floats total = Floats{};
    for (int i = 0; i < count; i += LANES) {
        Floats each = exponential(load(share + i) - most);
        total += each;
        store(share + i, each);
    }
    float factor = 1.0f / add_up(total);
    for (int k = 0; k < width; k += LANES) {
        Floats sum = Floats{};
        for (int i = 0; i < count; i++) sum += share[i] * load(values + place(i) * width + k);
        store(told + k, sum * factor);
    }
}

static void attend_within(const Network& net, const Block& block, const Texts& texts, const float* qkv, float* told) {
    int heads = net.heads, width = net.head_width, inner = heads * width, beams = texts.beams;
#pragma omp for schedule(static)
    for (int item = 0; item < texts.rows * beams * heads; item++) {
        int text = item / heads, head = item % heads, beam = text % beams;
        const float* query = qkv + (int64_t)text * 3 * inner + head * width;
        int64_t from = ((int64_t)texts.row[text / beams] * heads + head) * texts.places * width;
        float *keys = block.keys + from, *values = block.values + from;
        std::memcpy(keys + ((int64_t)texts.step * beams + beam) * width, query + inner, width * 4);
        std::memcpy(values + ((int64_t)texts.step * beams + beam) * width, query + 2 * inner, width * 4);
        float* to = told + (int64_t)text * inner + head * width;
        if (!texts.writers) attend(query, texts.step + 1, width, net.scale, keys, values, [](int i) { return (int64_t)i; }, to);
        else {
            const int32_t* writer = texts.writers + (int64_t)text * texts.longest;
            attend(query, texts.step + 1, width, net.scale, keys, values, [=](int i) { return (int64_t)i * beams + writer[i]; }, to);
        }
    }
}

static void attend_across(const Network& net, const Block& block, const Texts& texts, const float* queries, float* told) {
    int heads = net.heads, width = net.head_width;
#pragma omp for schedule(static)
    for (int item = 0; item < texts.rows * texts.beams * heads; item++) {
        int head = item / texts.beams % heads, text = item / (texts.beams * heads) * texts.beams + item % texts.beams, row = texts.row[text / texts.beams];
        int64_t from = ((int64_t)row * heads + head) * texts.source_places * width, at = ((int64_t)text * heads + head) * width;
        attend(queries + at, texts.source_length[row], width, net.scale, block.source_keys + from, block.source_values + from, [](int i) { return (int64_t)i; }, told + at);
    }
}

static void through_block(const Network& net, const Block& block, const Texts& texts, float* x, float* normed, float* wide, float* inner) {
    int count = texts.rows * texts.beams, width = net.width;
    const float* read = net.before ? normed : x;
    if (net.before) norm(block.own_norm, x, count, width, normed);
    multiply(block.qkv, read, count, NOTHING, wide);
    attend_within(net, block, texts, wide, inner);
    multiply(block.own_out, inner, count, ADD, x);
    if (net.before) norm(block.crossing_norm, x, count, width, normed); else norm(block.own_norm, x, count, width, x);
    multiply(block.query, read, count, NOTHING, wide);
    attend_across(net, block, texts, wide, inner);
    multiply(block.crossing_out, inner, count, ADD, x);
    if (net.before) norm(block.feed_norm, x, count, width, normed); else norm(block.crossing_norm, x, count, width, x);
    multiply(block.up, read, count, net.silu ? SILU : RELU, inner);
    multiply(block.down, inner, count, ADD, x);
    if (!net.before) norm(block.feed_norm, x, count, width, x);
}

static bool is_in(const int32_t* tokens, int count, int token) { return std::find(tokens, tokens + count, token) != tokens + count; }

// The likeliest token of each text; of equals the first. Scores are never kept.
static void choose_likeliest(const Network& net, const Texts& texts, const float* x, float* best, int32_t* token) {
    const Matrix& head = net.head;
    int rows = texts.rows * texts.beams, chunks = (rows + TOGETHER - 1) / TOGETHER, items = chunks * (head.outputs / PANEL);
    int thread = omp_get_thread_num(), threads = omp_get_num_threads();
    float* own_best = best + (int64_t)thread * rows;
    int32_t* own_token = token + (int64_t)thread * rows;
    for (int row = 0; row < rows; row++) { own_best[row] = -INFINITY; own_token[row] = 0; }
#pragma omp for schedule(static)
    for (int item = 0; item < items; item++) {
        int panel = item / chunks, first = item % chunks * TOGETHER, count = std::min(TOGETHER, rows - first);
        float told[TOGETHER * PANEL];
        tiles(x + (int64_t)first * head.inputs, count, head.inputs, head.weight + (int64_t)panel * PANEL * head.inputs, head.bias ? head.bias + panel * PANEL : nullptr, told, PANEL);
        for (int n = 0; n < texts.nevers; n++)
            if (texts.never[n] / PANEL == panel) for (int m = 0; m < count; m++) told[m * PANEL + texts.never[n] % PANEL] = -INFINITY;
        for (int m = 0; m < count; m++) {
            Floats most = load(told + m * PANEL);
            for (int n = LANES; n < PANEL; n += LANES) { Floats other = load(told + m * PANEL + n); most = other > most ? other : most; }
            float highest = largest(most);
            if (!(highest > own_best[first + m])) continue;
            own_best[first + m] = highest;
            own_token[first + m] = panel * PANEL + (int)(std::find(told + m * PANEL, told + (m + 1) * PANEL, highest) - (told + m * PANEL));
        }
    }
#pragma omp for schedule(static)
    for (int row = 0; row < rows; row++)  // a thread's panels stand before those of the next
        for (int other = 1; other < threads; other++)
            if (best[(int64_t)other * rows + row] > best[row]) { best[row] = best[(int64_t)other * rows + row]; token[row] = token[(int64_t)other * rows + row]; }
}

// The likeliest tokens of one text and their log-probabilities, those never written left out behind the softmax.
static void choose_candidates(const Texts& texts, const float* scores, int outputs, float* values, int32_t* tokens) {
    Floats most = load(scores), total = Floats{};
    for (int k = LANES; k < outputs; k += LANES) { Floats other = load(scores + k); most = other > most ? other : most; }
    float highest = largest(most);
    for (int k = 0; k < outputs; k += LANES) total += exponential(load(scores + k) - highest);
    float logarithm = std::log(add_up(total));
    int want = texts.candidates, have = 0;
    for (int n = 0; n < want; n++) { values[n] = -INFINITY; tokens[n] = 0; }
    for (int k = 0; k < outputs; k += LANES) {
        float least = have < want ? -INFINITY : values[want - 1];
        if (!(largest(load(scores + k)) > least)) continue;
        for (int token = k; token < k + LANES; token++) {
            if ((have == want && !(scores[token] > values[want - 1])) || scores[token] == -INFINITY || is_in(texts.never, texts.nevers, token)) continue;
            int at = have < want ? have++ : want - 1;
            for (; at > 0 && scores[token] > values[at - 1]; at--) { values[at] = values[at - 1]; tokens[at] = tokens[at - 1]; }
            values[at] = scores[token];
            tokens[at] = token;
        }
    }
    for (int n = 0; n < want; n++) values[n] = (values[n] - highest) - logarithm;
}

// x: embedded tokens, (texts, width), overwritten. Where candidates is 0, the likeliest token of each text goes to tokens[0 … texts): values and tokens hold
// threads × texts numbers; else values and tokens are (texts, candidates), and scores holds texts × the head's outputs.
extern "C" void luthier_translation_step(const Network* net, const Texts* texts, float* x, float* room, float* scores, float* values, int32_t* tokens, int threads) {
    int64_t count = (int64_t)texts->rows * texts->beams, heads = (int64_t)net->heads * net->head_width;
    float *normed = room, *wide = normed + count * net->width, *inner = wide + count * 3 * heads;
#pragma omp parallel num_threads(threads)
    {
        for (int layer = 0; layer < net->blocks; layer++) through_block(*net, net->block[layer], *texts, x, normed, wide, inner);
        if (net->last.weight) norm(net->last, x, count, net->width, x);
        if (!texts->candidates) choose_likeliest(*net, *texts, x, values, tokens);
        else {
            multiply(net->head, x, count, NOTHING, scores);
#pragma omp for schedule(static)
            for (int64_t text = 0; text < count; text++)
                choose_candidates(*texts, scores + text * net->head.outputs, net->head.outputs, values + text * texts->candidates, tokens + text * texts->candidates);
        }
    }
}
