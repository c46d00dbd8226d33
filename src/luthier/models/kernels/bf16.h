// bf16 numbers as code in C++ reads and writes them: as many at once as one register holds in fp32, in which everything is computed.
#pragma once
#include "registers.h"
#include <algorithm>
#include <cmath>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

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
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)floats);
#endif
    float each[LANES];
    std::memcpy(each, &floats, sizeof each);
    for (int half = LANES / 2; half; half /= 2) for (int i = 0; i < half; i++) each[i] += each[i + half];
    return each[0];
}

static inline float largest_of(Floats floats) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)floats);
#endif
    float each[LANES];
    std::memcpy(each, &floats, sizeof each);
    for (int half = LANES / 2; half; half /= 2) for (int i = 0; i < half; i++) each[i] = std::max(each[i], each[i + half]);
    return each[0];
}

static inline Floats root(Floats x) {
#if defined(__AVX512F__)
    return (Floats)_mm512_sqrt_ps((__m512)x);
#endif
    Floats y;
    for (int i = 0; i < LANES; i++) y[i] = std::sqrt(x[i]);
    return y;
}

static inline Floats exponential_or_nan(Floats x) {  // within what fp32 holds; of what is not a number as it is
    Floats low = broadcast(-87.0f), high = broadcast(88.0f);
    Floats within = x < low ? low : x > high ? high : x;
    return x != x ? x : exponential_within(within);
}

static inline Floats sigmoid(Floats x) { return 1.0f / (1.0f + exponential_or_nan(-x)); }

template <class Each>
static inline void sweep(int64_t count, Each each) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) each(i, (int64_t)LANES);
    if (i < count) each(i, count - i);
}

// The numbers of a head by the angles of its place (Su et al. 2021), times a factor; `way`: 1, or -1 for back
template <typename T>
static inline void rotate(const T* in, const Half* cos, const Half* sin, float factor, float way, int64_t width, Half* out) {
    int64_t half = width / 2;
    sweep(half, [&](int64_t i, int64_t n) {
        Floats one = read(in + i, n), other = read(in + half + i, n), c = read(cos + i, n) * factor, s = read(sin + i, n) * (factor * way);
        write(out + i, one * c - other * s, n);
        write(out + half + i, other * c + one * s, n);
    });
}

static const int64_t PIECE = 1 << 14;  // numbers that a thread takes at once

template <class Each>
static inline void sweep_threads(int64_t count, int threads, Each each) {
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t start = 0; start < count; start += PIECE)
        sweep(std::min(PIECE, count - start), [&](int64_t i, int64_t n) { each(start + i, n); });
}

static const int64_t SUMMED = 64;  // rows that are added up before they join the others: the same bits on any number of threads

// Sums over rows, each of what `each` adds to it for a row and a place
template <int COUNT, class Each>
static void sum_columns(int64_t rows, int64_t width, float* const* to, int threads, Each each) {
    const int VECTORS = 4;
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t start = 0; start < width; start += VECTORS * LANES) {
        Floats total[VECTORS][COUNT] = {};
        int64_t vectors = std::min<int64_t>(VECTORS, (width - start + LANES - 1) / LANES);
        for (int64_t first = 0; first < rows; first += SUMMED) {
            Floats part[VECTORS][COUNT] = {};
            for (int64_t row = first; row < std::min(first + SUMMED, rows); row++)
                for (int64_t v = 0; v < vectors; v++) each(row, start + v * LANES, std::min<int64_t>(LANES, width - start - v * LANES), part[v]);
            for (int64_t v = 0; v < vectors; v++) for (int i = 0; i < COUNT; i++) total[v][i] += part[v][i];
        }
        for (int64_t v = 0; v < vectors; v++)
            for (int i = 0; i < COUNT; i++) write(to[i] + start + v * LANES, total[v][i], std::min<int64_t>(LANES, width - start - v * LANES));
    }
}
