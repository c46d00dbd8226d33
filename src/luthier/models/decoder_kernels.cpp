// What a decoder computes between its large products, in bf16, and attention within short rows; models/decoder_kernels.py compiles and calls it.
//
// Sums and powers are taken in fp32. Each sum has an order that follows from the numbers' places alone: on any number of threads the same bits.
#include "registers.h"
#include <cmath>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif
#include <limits>
#include <omp.h>
#include <vector>

typedef uint16_t Half;  // the upper half of an fp32 number
typedef Half Halves __attribute__((vector_size(2 * LANES), aligned(2)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), aligned(4)));

static inline Floats widen(Halves halves) {
    Words words = __builtin_convertvector(halves, Words) << 16;
    Floats floats;
    std::memcpy(&floats, &words, sizeof floats);
    return floats;
}

static inline Halves narrow(Floats floats) {  // to the nearest, of two equally near to the even one; what is not a number stays so
#if defined(__AVX512BF16__)
    __m256bh halves = _mm512_cvtneps_pbh((__m512)floats);
    Halves said;
    std::memcpy(&said, &halves, sizeof said);
    return said;
#endif
    Words words;
    std::memcpy(&words, &floats, sizeof words);
    Words rounded = (words + 0x7FFF + ((words >> 16) & 1)) >> 16;
    return __builtin_convertvector(floats != floats ? (Words{} + 0x7FC0) : rounded, Halves);
}

// Of `count` numbers; what is behind them is `rest`.
static inline Floats read(const Half* place, int64_t count = LANES, float rest = 0.0f) {
    Halves halves;
    if (count == LANES) { std::memcpy(&halves, place, sizeof halves); return widen(halves); }
    Floats floats = broadcast(rest);
    for (int i = 0; i < count; i++) { uint32_t word = (uint32_t)place[i] << 16; float one; std::memcpy(&one, &word, 4); floats[i] = one; }
    return floats;
}

static inline Floats read(const float* place, int64_t count = LANES, float rest = 0.0f) {
    if (count == LANES) return at(place);
    Floats floats = broadcast(rest);
    for (int i = 0; i < count; i++) floats[i] = place[i];
    return floats;
}

static inline void write(Half* place, Floats floats, int64_t count = LANES) {
    Halves halves = narrow(floats);
    std::memcpy(place, &halves, count == LANES ? sizeof halves : 2 * count);
}

static inline void write(float* place, Floats floats, int64_t count = LANES) {
    if (count == LANES) at(place) = floats;
    else for (int i = 0; i < count; i++) place[i] = floats[i];
}

static inline Floats rounded(Floats floats) { return widen(narrow(floats)); }

static inline float sum_of(Floats floats) {
    float each[LANES];
    std::memcpy(each, &floats, sizeof each);
    for (int half = LANES / 2; half; half /= 2) for (int i = 0; i < half; i++) each[i] += each[i + half];
    return each[0];
}

static inline float largest_of(Floats floats) {
    float each[LANES];
    std::memcpy(each, &floats, sizeof each);
    for (int half = LANES / 2; half; half /= 2) for (int i = 0; i < half; i++) each[i] = std::max(each[i], each[i + half]);
    return each[0];
}

static inline Floats root(Floats x) {
    Floats y;
    for (int i = 0; i < LANES; i++) y[i] = std::sqrt(x[i]);
    return y;
}

static inline Floats exponential(Floats x) {  // within what fp32 holds; of what is not a number as it is
    Floats low = broadcast(-87.0f), high = broadcast(88.0f);
    Floats within = x < low ? low : x > high ? high : x;
    return x != x ? x : exponential_within(within);
}

static inline Floats sigmoid(Floats x) { return 1.0f / (1.0f + exponential(-x)); }

template <class Each>
static inline void sweep(int64_t count, Each each) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) each(i, (int64_t)LANES);
    if (i < count) each(i, count - i);
}

static const int64_t PIECE = 1 << 14;  // numbers that a thread takes at once

template <class Each>
static inline void sweep_threads(int64_t count, int threads, Each each) {
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t start = 0; start < count; start += PIECE)
        sweep(std::min(PIECE, count - start), [&](int64_t i, int64_t n) { each(start + i, n); });
}

extern "C" {

void luthier_rms_norm(const Half* x, const Half* weight, const float* eps, Half* out, float* factor, int64_t rows, int64_t width, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const Half* in = x + row * width;
        Half* said = out + row * width;
        Floats squares = {};
        sweep(width, [&](int64_t i, int64_t n) { Floats v = read(in + i, n); squares += v * v; });
        float by = factor[row] = 1.0f / std::sqrt(sum_of(squares) / width + *eps);
        sweep(width, [&](int64_t i, int64_t n) { write(said + i, rounded(read(in + i, n) * by) * read(weight + i, n), n); });
    }
}

void luthier_rms_norm_backward(const Half* d_said, const Half* x, const Half* weight, const float* factor, const Half* more, Half* d_x, int64_t rows, int64_t width, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const Half *d = d_said + row * width, *in = x + row * width;
        float by = factor[row];
        Floats products = {};
        sweep(width, [&](int64_t i, int64_t n) { products += read(d + i, n) * read(weight + i, n) * read(in + i, n); });
        float mean = sum_of(products) * by / width;
        sweep(width, [&](int64_t i, int64_t n) {
            Floats slope = (read(d + i, n) * read(weight + i, n) - read(in + i, n) * (by * mean)) * by;
            write(d_x + row * width + i, more ? slope + read(more + row * width + i, n) : slope, n);
        });
    }
}

void luthier_rms_norm_weight_backward(const Half* d_said, const Half* x, const float* factor, float* d_weight, int64_t rows, int64_t width, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t start = 0; start < width; start += 4 * LANES) {
        Floats total[4] = {};
        for (int64_t first = 0; first < rows; first += 64) {
            Floats part[4] = {};
            for (int64_t row = first; row < std::min(first + 64, rows); row++)
                for (int64_t i = 0; i < 4; i++) {
                    int64_t place = start + i * LANES, n = std::min<int64_t>(LANES, width - place);
                    if (n > 0) part[i] += read(d_said + row * width + place, n) * (read(x + row * width + place, n) * factor[row]);
                }
            for (int i = 0; i < 4; i++) total[i] += part[i];
        }
        for (int64_t i = 0; i < 4; i++) {
            int64_t place = start + i * LANES, n = std::min<int64_t>(LANES, width - place);
            if (n > 0) write(d_weight + place, total[i], n);
        }
    }
}

void luthier_swiglu(const Half* gate, const Half* up, Half* out, int64_t count, int threads) {
    sweep_threads(count, threads, [=](int64_t i, int64_t n) { Floats g = read(gate + i, n); write(out + i, g * sigmoid(g) * read(up + i, n), n); });
}

void luthier_swiglu_backward(const Half* gate, const Half* up, const Half* d_said, Half* out, Half* d_gate, Half* d_up, int64_t count, int threads) {
    sweep_threads(count, threads, [=](int64_t i, int64_t n) {
        Floats g = read(gate + i, n), u = read(up + i, n), d = read(d_said + i, n), share = sigmoid(g), bent = g * share;
        write(out + i, bent * u, n);
        write(d_gate + i, d * u * (share + bent * (1.0f - share)), n);
        write(d_up + i, d * bent, n);
    });
}

void luthier_rotary(const Half* x, int64_t x_row, const Half* cos, const Half* sin, const float* factor, Half* out, int64_t tokens, int64_t heads, int64_t width, int threads) {
    int64_t half = width / 2;
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t token = 0; token < tokens; token++)
        for (int64_t head = 0; head < heads; head++) {
            const Half* in = x + token * x_row + head * width;
            Half* said = out + (token * heads + head) * width;
            sweep(half, [&](int64_t i, int64_t n) {
                Floats one = read(in + i, n), other = read(in + half + i, n), c = read(cos + token * width + i, n) * *factor, s = read(sin + token * width + i, n) * *factor;
                write(said + i, one * c - other * s, n);
                write(said + half + i, other * c + one * s, n);
            });
        }
}

void luthier_attention_scores_backward(const Half* score, const Half* d_share, const float* total, const float* pulled, const float* first, const float* last, Half* share,
                                Half* d_score, int64_t asking, int64_t length, int threads) {
    Floats steps;
    for (int i = 0; i < LANES; i++) steps[i] = i;
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t row = 0; row < asking; row++) {
        sweep(length, [&](int64_t i, int64_t n) {
            Floats zero = {}, place = steps + (float)i;
            Ints seen = (place >= first[row]) & (place <= last[row]);
            Floats p = seen ? exponential(read(score + row * length + i, n) - total[row]) : zero;
            write(share + row * length + i, p, n);
            write(d_score + row * length + i, p * (read(d_share + row * length + i, n) - pulled[row]), n);
        });
    }
}

void luthier_cross_entropy(Half* logits, const int64_t* target, float* lost, int64_t rows, int64_t vocabulary, int threads) {
    const float lowest = -std::numeric_limits<float>::infinity(), nothing = std::numeric_limits<float>::quiet_NaN();
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        Half* said = logits + row * vocabulary;
        Floats most = broadcast(lowest), sum = {};
        sweep(vocabulary, [&](int64_t i, int64_t n) { Floats v = read(said + i, n, lowest); most = v > most ? v : most; });
        float largest = largest_of(most);
        sweep(vocabulary, [&](int64_t i, int64_t n) { Floats p = exponential(read(said + i, n, lowest) - largest); sum += n == LANES ? p : read((float*)&p, n); });
        float total = std::log(sum_of(sum)) + largest;
        int64_t right = target[row];
        bool known = right >= 0 && right < vocabulary;
        lost[row] = known ? total - read(said + right, 1)[0] : nothing;
        float hit = known ? std::exp(read(said + right, 1)[0] - total) - 1.0f : nothing;
        sweep(vocabulary, [&](int64_t i, int64_t n) { write(said + i, exponential(read(said + i, n) - total), n); });
        if (known) write(said + right, broadcast(hit), 1);
    }
}

float luthier_square_sum(const Half* values, int64_t count) {  // of pieces one after the other
    double total = 0;
    for (int64_t start = 0; start < count; start += PIECE) {
        Floats squares = {};
        sweep(std::min(PIECE, count - start), [&](int64_t i, int64_t n) { Floats v = read(values + start + i, n); squares += v * v; });
        total += sum_of(squares);
    }
    return (float)total;
}

void luthier_adamw(float* weight, float* mean, float* square, Half* rounded, const Half* gradient, const float* numbers, int64_t count, int threads) {
    const float scale = numbers[0], left = numbers[1], beta = numbers[2], other = numbers[3], beta_square = numbers[4], other_square = numbers[5], size = numbers[6],
                second = numbers[7], eps = numbers[8];
    sweep_threads(count, threads, [=](int64_t i, int64_t n) {
        Floats g = read(gradient + i, n) * scale, m = read(mean + i, n) * beta + g * other, v = read(square + i, n) * beta_square + g * g * other_square;
        Floats w = read(weight + i, n) * left - size * m / (root(v) / second + eps);
        write(mean + i, m, n);
        write(square + i, v, n);
        write(weight + i, w, n);
        write(rounded + i, w, n);
    });
}
}

// Attention of one head within one row, each token to itself and those before it, in fp32. What a loop over heads needs is filled up with zeros to whole vectors.
struct Head {
    int64_t length = 0, width = 0, places = 0, columns = 0;  // places: length filled up; columns: width filled up
    std::vector<float> query, key, key_t, value, value_t, said, d_said, share, d_score, d_query, d_key, d_value, d_keys, d_values;
    static Head& of(int64_t length, int64_t width) {  // each thread keeps one: rows of one length find what fills up as they left it
        static thread_local Head head;
        if (head.length == length && head.width == width) return head;
        head.length = length; head.width = width; head.places = whole(length); head.columns = whole(width);
        for (auto* each : {&head.query, &head.key, &head.value, &head.said, &head.d_said, &head.d_query, &head.d_key, &head.d_value, &head.d_keys, &head.d_values})
            each->assign(head.places * head.columns, 0.0f);
        for (auto* each : {&head.key_t, &head.value_t}) each->assign(head.columns * head.places, 0.0f);
        for (auto* each : {&head.share, &head.d_score}) each->assign(head.places * head.places, 0.0f);
        return head;
    }
    static int64_t whole(int64_t numbers) { return (numbers + LANES - 1) / LANES * LANES; }
    int64_t reach(int64_t start) const { return std::min(start + TALL, length); }  // of what a block of queries sees, the end
};

// The tokens of one head, turned by their places' angles where those are given
static void take(const Half* from, int64_t stride, const Half* cos, const Half* sin, float factor, const Head& head, float* to) {
    int64_t half = head.width / 2;
    for (int64_t token = 0; token < head.length; token++) {
        const Half* in = from + token * stride;
        float* out = to + token * head.columns;
        if (!cos) { sweep(head.width, [&](int64_t i, int64_t n) { write(out + i, read(in + i, n), n); }); continue; }
        sweep(half, [&](int64_t i, int64_t n) {
            Floats one = read(in + i, n), other = read(in + half + i, n), c = read(cos + token * head.width + i, n) * factor, s = read(sin + token * head.width + i, n) * factor;
            write(out + i, one * c - other * s, n);
            write(out + half + i, other * c + one * s, n);
        });
    }
}

// Their gradients, turned back
static void give(const float* from, const Half* cos, const Half* sin, float factor, const Head& head, Half* to, int64_t stride) {
    int64_t half = head.width / 2;
    for (int64_t token = 0; token < head.length; token++) {
        const float* in = from + token * head.columns;
        Half* out = to + token * stride;
        if (!cos) { sweep(head.width, [&](int64_t i, int64_t n) { write(out + i, read(in + i, n), n); }); continue; }
        sweep(half, [&](int64_t i, int64_t n) {
            Floats one = read(in + i, n), other = read(in + half + i, n), c = read(cos + token * head.width + i, n) * factor, s = read(sin + token * head.width + i, n) * factor;
            write(out + i, one * c + other * s, n);
            write(out + half + i, other * c - one * s, n);
        });
    }
}

static void turn(const float* from, const Head& head, float* to) {  // (length, columns) → (columns, places)
    for (int64_t token = 0; token < head.length; token++)
        for (int64_t i = 0; i < head.width; i++) to[i * head.places + token] = from[token * head.columns + i];
}

// The scores of a block of queries → head.share
static void score(Head& head, int64_t start, int64_t end) {
    multiply(head.query.data() + start * head.columns, head.columns, 1, head.key_t.data(), head.places, head.width, head.share.data() + start * head.places, head.places,
             end - start, Head::whole(end));
}

static inline Ints places_from(int64_t first) {
    Ints places;
    for (int i = 0; i < LANES; i++) places[i] = first + i;
    return places;
}

extern "C" {
// queries, keys and values of a token lie one behind the other; starts: where rows begin, and the last one ends
struct Heads { const int64_t* starts; int64_t rows, heads, key_heads, width; const Half *cos, *sin; float scale; };

void luthier_attention(const Half* given, const Heads* of, Half* out, float* total, int threads) {
    int64_t width = of->width, heads = of->heads, shared = heads / of->key_heads, stride = (heads + 2 * of->key_heads) * width;
    #pragma omp parallel for collapse(2) num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t row = 0; row < of->rows; row++)
        for (int64_t which = 0; which < heads; which++) {
            int64_t first = of->starts[row];
            Head& head = Head::of(of->starts[row + 1] - first, width);
            const Half *token = given + first * stride, *cos = of->cos + first * width, *sin = of->sin + first * width;
            take(token + which * width, stride, cos, sin, of->scale, head, head.query.data());
            take(token + (heads + which / shared) * width, stride, cos, sin, 1.0f, head, head.key.data());
            take(token + (heads + of->key_heads + which / shared) * width, stride, nullptr, nullptr, 1.0f, head, head.value.data());
            turn(head.key.data(), head, head.key_t.data());
            for (int64_t start = 0; start < head.length; start += TALL) {
                int64_t end = head.reach(start), seen = Head::whole(end);
                score(head, start, end);
                for (int64_t asks = start; asks < end; asks++) {
                    float* share = head.share.data() + asks * head.places;
                    Floats lowest = broadcast(-std::numeric_limits<float>::infinity()), most = lowest, sum = {};
                    for (int64_t i = 0; i < seen; i += LANES) {
                        Floats v = places_from(i) <= (int)asks ? at(share + i) : lowest;
                        most = v > most ? v : most;
                    }
                    float largest = largest_of(most);
                    for (int64_t i = 0; i < seen; i += LANES) {
                        Floats zero = {};
                        sum += at(share + i) = places_from(i) <= (int)asks ? exponential(at(share + i) - largest) : zero;
                    }
                    float all = sum_of(sum);
                    for (int64_t i = 0; i < seen; i += LANES) at(share + i) /= broadcast(all);
                    total[(first + asks) * heads + which] = largest + std::log(all);
                }
                multiply(head.share.data() + start * head.places, head.places, 1, head.value.data(), head.columns, end, head.said.data() + start * head.columns, head.columns,
                         end - start, head.columns);
            }
            give(head.said.data(), nullptr, nullptr, 1.0f, head, out + first * heads * width + which * width, heads * width);
        }
}

void luthier_attention_backward(const Half* given, const Heads* of, const Half* out, const float* total, const Half* d_out, Half* d_given, int threads) {
    int64_t width = of->width, heads = of->heads, shared = heads / of->key_heads, stride = (heads + 2 * of->key_heads) * width;
    #pragma omp parallel for collapse(2) num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t row = 0; row < of->rows; row++)
        for (int64_t kept = 0; kept < of->key_heads; kept++) {
            int64_t first = of->starts[row], keys = (heads + kept) * width, values = keys + of->key_heads * width;
            Head& head = Head::of(of->starts[row + 1] - first, width);
            const Half *token = given + first * stride, *cos = of->cos + first * width, *sin = of->sin + first * width;
            Half* d_token = d_given + first * stride;
            take(token + keys, stride, cos, sin, 1.0f, head, head.key.data());
            take(token + values, stride, nullptr, nullptr, 1.0f, head, head.value.data());
            turn(head.key.data(), head, head.key_t.data());
            turn(head.value.data(), head, head.value_t.data());
            std::fill(head.d_keys.begin(), head.d_keys.end(), 0.0f);
            std::fill(head.d_values.begin(), head.d_values.end(), 0.0f);
            for (int64_t which = kept * shared; which < (kept + 1) * shared; which++) {
                take(token + which * width, stride, cos, sin, of->scale, head, head.query.data());
                take(d_out + (first * heads + which) * width, heads * width, nullptr, nullptr, 1.0f, head, head.d_said.data());
                take(out + (first * heads + which) * width, heads * width, nullptr, nullptr, 1.0f, head, head.said.data());
                for (int64_t start = 0; start < head.length; start += TALL) {
                    int64_t end = head.reach(start), seen = Head::whole(end);
                    score(head, start, end);
                    multiply(head.d_said.data() + start * head.columns, head.columns, 1, head.value_t.data(), head.places, width, head.d_score.data() + start * head.places, head.places,
                             end - start, seen);
                    for (int64_t asks = start; asks < end; asks++) {
                        float *share = head.share.data() + asks * head.places, *d_score = head.d_score.data() + asks * head.places;
                        Floats products = {}, zero = {};
                        for (int64_t i = 0; i < head.columns; i += LANES) products += at(head.d_said.data() + asks * head.columns + i) * at(head.said.data() + asks * head.columns + i);
                        float pulled = sum_of(products), all = total[(first + asks) * heads + which];
                        for (int64_t i = 0; i < seen; i += LANES) {
                            Floats p = places_from(i) <= (int)asks ? exponential(at(share + i) - all) : zero;
                            at(share + i) = p;
                            at(d_score + i) = p * (at(d_score + i) - pulled);
                        }
                    }
                    multiply(head.d_score.data() + start * head.places, head.places, 1, head.key.data(), head.columns, end, head.d_query.data() + start * head.columns, head.columns,
                             end - start, head.columns);
                }
                for (int64_t start = 0; start < head.length; start += TALL) {  // keys and values are looked at by the tokens from their own place on
                    int64_t at_key = start * head.columns, from = start * head.places + start, tall = head.reach(start) - start, asking = head.length - start;
                    multiply(head.d_score.data() + from, 1, head.places, head.query.data() + at_key, head.columns, asking, head.d_key.data() + at_key, head.columns, tall, head.columns);
                    multiply(head.share.data() + from, 1, head.places, head.d_said.data() + at_key, head.columns, asking, head.d_value.data() + at_key, head.columns, tall, head.columns);
                }
                for (size_t i = 0; i < head.d_keys.size(); i++) { head.d_keys[i] += head.d_key[i]; head.d_values[i] += head.d_value[i]; }
                give(head.d_query.data(), cos, sin, of->scale, head, d_token + which * width, stride);
            }
            give(head.d_keys.data(), cos, sin, 1.0f, head, d_token + keys, stride);
            give(head.d_values.data(), nullptr, nullptr, 1.0f, head, d_token + values, stride);
        }
}
}
