// Causal attention within short rows, with rotary positions, in bf16 and fp32, and its gradient. models/kernels/decoder_kernels.cpp includes it.
#pragma once
#include "bf16.h"
#include "products.h"
#include <limits>
#include <omp.h>
#include <vector>

// Two bf16 numbers lie in one word, the first one below; products of small matrices of such pairs, summed in fp32.
static inline Floats add_products(Floats sum, Words a, Words b) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    Words low_a = a << 16, low_b = b << 16, high_a = a & 0xFFFF0000, high_b = b & 0xFFFF0000;
    return sum + (Floats)low_a * (Floats)low_b + (Floats)high_a * (Floats)high_b;
#endif
}

typedef uint32_t Pair;
template <> struct Numbers<Pair> {
    typedef Words Vector;
    static inline Words read(const Pair* place) { return *(const Words*)place; }
    static inline Floats add_product(Floats sum, Pair x, Words each) { return add_products(sum, Words{} + x, each); }
};

// Attention of one head within one row, each token to itself and those before it. Products are of bf16, sums and exponentials in fp32. Tokens, and a head's numbers, are filled up with
// zeros to whole vectors; what ends in `tokens` holds pairs of neighbouring tokens, (places / 2, columns), and in `turned` pairs of a token's numbers, (columns / 2, places).
struct Head {
    int64_t length = 0, width = 0, places = 0, columns = 0;
    std::vector<Half> query, key, value, d_said;  // (places, columns)
    std::vector<Pair> query_tokens, key_tokens, value_tokens, d_said_tokens, key_turned, value_turned, share_tokens, d_score_tokens;
    std::vector<Half> share_half, d_score_half;  // of a block of queries, (TALL, places)
    std::vector<float> said, share, d_score, d_query, d_key, d_value, d_keys, d_values;
    static Head& of(int64_t length, int64_t width) {  // each thread keeps one: rows of one length find what fills up as they left it
        static thread_local Head head;
        if (head.length == length && head.width == width) return head;
        head.length = length; head.width = width; head.places = whole(length); head.columns = whole(width);
        int64_t numbers = head.places * head.columns;
        for (auto* each : {&head.query, &head.key, &head.value, &head.d_said}) each->assign(numbers, 0);
        for (auto* each : {&head.query_tokens, &head.key_tokens, &head.value_tokens, &head.d_said_tokens, &head.key_turned, &head.value_turned}) each->assign(numbers / 2, 0);
        for (auto* each : {&head.share_tokens, &head.d_score_tokens}) each->assign(head.places * head.places / 2, 0);
        for (auto* each : {&head.share_half, &head.d_score_half}) each->assign(TALL * head.places, 0);
        for (auto* each : {&head.said, &head.d_query, &head.d_key, &head.d_value, &head.d_keys, &head.d_values}) each->assign(numbers, 0.0f);
        for (auto* each : {&head.share, &head.d_score}) each->assign(TALL * head.places, 0.0f);
        return head;
    }
    int64_t reach(int64_t start) const { return std::min(start + TALL, length); }  // of what a block of queries sees, the end
    const Pair* pairs(const std::vector<Half>& halves, int64_t token) const { return (const Pair*)(halves.data() + token * columns); }
};

// The tokens of one head, turned by their places' angles where those are given
static void take(const Half* from, int64_t stride, const Half* cos, const Half* sin, float factor, const Head& head, std::vector<Half>& kept) {
    for (int64_t token = 0; token < head.length; token++) {
        const Half* in = from + token * stride;
        Half* out = kept.data() + token * head.columns;
        if (cos) rotate(in, cos + token * head.width, sin + token * head.width, factor, 1.0f, head.width, out);
        else std::memcpy(out, in, 2 * head.width);
    }
}

// Their gradients, turned back
static void give(const float* from, const Half* cos, const Half* sin, float factor, const Head& head, Half* to, int64_t stride) {
    for (int64_t token = 0; token < head.length; token++) {
        const float* in = from + token * head.columns;
        Half* out = to + token * stride;
        if (cos) rotate(in, cos + token * head.width, sin + token * head.width, factor, -1.0f, head.width, out);
        else sweep(head.width, [&](int64_t i, int64_t n) { write(out + i, read(in + i, n), n); });
    }
}

// Rows of so many numbers → pairs of neighbouring rows
static void pair_rows(const Half* from, int64_t rows, int64_t columns, Pair* to) {
    for (int64_t row = 0; row < rows; row += 2)
        for (int64_t i = 0; i < columns; i += LANES) {
            Halves low, high;
            std::memcpy(&low, from + row * columns + i, sizeof low);
            std::memcpy(&high, from + (row + 1) * columns + i, sizeof high);
            *(Words*)(to + row / 2 * columns + i) = __builtin_convertvector(low, Words) | __builtin_convertvector(high, Words) << 16;
        }
}

static void turn(const std::vector<Half>& from, const Head& head, std::vector<Pair>& to) {
    for (int64_t token = 0; token < head.length; token++) {
        const Pair* pairs = head.pairs(from, token);
        for (int64_t i = 0; i < head.columns / 2; i++) to[i * head.places + token] = pairs[i];
    }
}

static inline Ints places_from(int64_t first) {
    Ints places;
    for (int i = 0; i < LANES; i++) places[i] = first + i;
    return places;
}

// The scores of a block of queries → head.share
static void score(Head& head, int64_t start, int64_t end) {
    multiply<2>(head.pairs(head.query, start), head.columns / 2, 1, head.key_turned.data(), head.places, head.columns / 2, head.share.data(), head.places, end - start, whole(end));
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
            take(token + which * width, stride, cos, sin, of->scale, head, head.query);
            take(token + (heads + which / shared) * width, stride, cos, sin, 1.0f, head, head.key);
            take(token + (heads + of->key_heads + which / shared) * width, stride, nullptr, nullptr, 1.0f, head, head.value);
            turn(head.key, head, head.key_turned);
            pair_rows(head.value.data(), head.places, head.columns, head.value_tokens.data());
            for (int64_t start = 0; start < head.length; start += TALL) {
                int64_t end = head.reach(start), seen = whole(end);
                score(head, start, end);
                for (int64_t asks = start; asks < end; asks++) {
                    float* share = head.share.data() + (asks - start) * head.places;
                    Half* used = head.share_half.data() + (asks - start) * head.places;
                    Floats lowest = broadcast(-std::numeric_limits<float>::infinity()), most = lowest, sum = {}, zero = {};
                    for (int64_t i = 0; i < seen; i += LANES) {
                        Floats v = at(share + i) = places_from(i) <= (int)asks ? at(share + i) : lowest;
                        most = v > most ? v : most;
                    }
                    float largest = largest_of(most);
                    for (int64_t i = 0; i < seen; i += LANES) sum += at(share + i) = places_from(i) <= (int)asks ? exponential_or_nan(at(share + i) - largest) : zero;
                    float all = sum_of(sum), part = 1.0f / all;
                    for (int64_t i = 0; i < seen; i += LANES) write(used + i, at(share + i) * part);
                    total[(first + asks) * heads + which] = largest + std::log(all);
                }
                multiply<2>((const Pair*)head.share_half.data(), head.places / 2, 1, head.value_tokens.data(), head.columns, (end + 1) / 2, head.said.data() + start * head.columns,
                               head.columns, end - start, head.columns);
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
            take(token + keys, stride, cos, sin, 1.0f, head, head.key);
            take(token + values, stride, nullptr, nullptr, 1.0f, head, head.value);
            turn(head.key, head, head.key_turned);
            turn(head.value, head, head.value_turned);
            pair_rows(head.key.data(), head.places, head.columns, head.key_tokens.data());
            std::fill(head.d_keys.begin(), head.d_keys.end(), 0.0f);
            std::fill(head.d_values.begin(), head.d_values.end(), 0.0f);
            for (int64_t which = kept * shared; which < (kept + 1) * shared; which++) {
                const Half* answer = out + (first * heads + which) * width;
                take(token + which * width, stride, cos, sin, of->scale, head, head.query);
                take(d_out + (first * heads + which) * width, heads * width, nullptr, nullptr, 1.0f, head, head.d_said);
                pair_rows(head.query.data(), head.places, head.columns, head.query_tokens.data());
                pair_rows(head.d_said.data(), head.places, head.columns, head.d_said_tokens.data());
                for (int64_t start = 0; start < head.length; start += TALL) {
                    int64_t end = head.reach(start), seen = whole(end);
                    score(head, start, end);
                    multiply<2>(head.pairs(head.d_said, start), head.columns / 2, 1, head.value_turned.data(), head.places, head.columns / 2, head.d_score.data(), head.places,
                                   end - start, seen);
                    for (int64_t asks = start; asks < end; asks++) {
                        const float *scores = head.share.data() + (asks - start) * head.places, *d_share = head.d_score.data() + (asks - start) * head.places;
                        Half *share = head.share_half.data() + (asks - start) * head.places, *d_score = head.d_score_half.data() + (asks - start) * head.places;
                        Floats products = {}, zero = {};
                        sweep(width, [&](int64_t i, int64_t n) { products += read(head.d_said.data() + asks * head.columns + i, n) * read(answer + asks * heads * width + i, n); });
                        float pulled = sum_of(products), all = total[(first + asks) * heads + which];
                        for (int64_t i = 0; i < seen; i += LANES) {
                            Floats p = places_from(i) <= (int)asks ? exponential_or_nan(at(scores + i) - all) : zero;
                            write(share + i, p);
                            write(d_score + i, p * (at(d_share + i) - pulled));
                        }
                    }
                    for (int64_t asks = end; asks < start + TALL; asks++)  // what a last block has been left of another one
                        for (auto* each : {&head.share_half, &head.d_score_half}) std::fill_n(each->data() + (asks - start) * head.places, head.places, 0);
                    multiply<2>((const Pair*)head.d_score_half.data(), head.places / 2, 1, head.key_tokens.data(), head.columns, (end + 1) / 2, head.d_query.data() + start * head.columns,
                                   head.columns, end - start, head.columns);
                    pair_rows(head.share_half.data(), TALL, head.places, head.share_tokens.data() + start / 2 * head.places);
                    pair_rows(head.d_score_half.data(), TALL, head.places, head.d_score_tokens.data() + start / 2 * head.places);
                }
                for (int64_t start = 0; start < head.length; start += TALL) {  // keys and values are looked at by the tokens from their own place on
                    int64_t at_key = start * head.columns, from = start / 2 * head.places + start, in_pairs = start / 2 * head.columns, tall = head.reach(start) - start;
                    int64_t asking = (head.length - start + 1) / 2;
                    multiply<2>(head.d_score_tokens.data() + from, 1, head.places, head.query_tokens.data() + in_pairs, head.columns, asking, head.d_key.data() + at_key, head.columns, tall,
                                   head.columns);
                    multiply<2>(head.share_tokens.data() + from, 1, head.places, head.d_said_tokens.data() + in_pairs, head.columns, asking, head.d_value.data() + at_key, head.columns, tall,
                                   head.columns);
                }
                for (size_t i = 0; i < head.d_keys.size(); i++) { head.d_keys[i] += head.d_key[i]; head.d_values[i] += head.d_value[i]; }
                give(head.d_query.data(), cos, sin, of->scale, head, d_token + which * width, stride);
            }
            give(head.d_keys.data(), cos, sin, 1.0f, head, d_token + keys, stride);
            give(head.d_values.data(), nullptr, nullptr, 1.0f, head, d_token + values, stride);
        }
}
}
