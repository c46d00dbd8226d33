// Products of bf16 matrices on matrix tiles (AMX), summed in fp32. models/kernels/tile_kernels.cpp includes it.
//
// A tile has 16 rows of 64 bytes. Four of them sum 32 × 32 numbers of the product, two hold rows of the left factor and two columns of the right one, whose pairs of numbers that are
// neighbours along the sum lie in one word. Each sum is taken in the order of its terms: on any number of threads the same bits.
#pragma once
#include "bf16.h"
#include <cstdlib>
#include <memory>

static const int64_t SIDE = 32;         // rows and columns of the product that are summed at once
static const int64_t STEP = 32;         // terms that an instruction adds
static const int64_t TILE = 16 * STEP;  // numbers of a tile

static inline int64_t parts(int64_t count, int64_t size) { return (count + size - 1) / size; }

struct TileShapes {  // as the processor reads them
    uint8_t palette = 1, start = 0, kept[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
};

static inline void open_tiles() {
    TileShapes shapes;
    for (int i = 0; i < 8; i++) { shapes.bytes[i] = 64; shapes.rows[i] = 16; }
    _tile_loadconfig(&shapes);
}

// Memory that a thread keeps between calls: fresh memory comes page by page
template <typename T> struct Room {
    std::unique_ptr<T, decltype(&std::free)> kept{nullptr, &std::free};
    int64_t size = 0;
    T* of(int64_t count) {
        if (count > size) { kept.reset((T*)std::aligned_alloc(64, parts(count * sizeof(T), 64) * 64)); size = count; }
        return kept.get();
    }
};

// 16 × 16 words, rows become columns
static inline void turn_words(__m512i w[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) { t[i] = _mm512_unpacklo_epi32(w[i], w[i + 1]); t[i + 1] = _mm512_unpackhi_epi32(w[i], w[i + 1]); }
    for (int i = 0; i < 16; i += 4) {
        w[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]); w[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        w[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]); w[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(w[i], w[i + 4], 0x88); t[i + 4] = _mm512_shuffle_i32x4(w[i], w[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(w[i + 8], w[i + 12], 0x88); t[i + 12] = _mm512_shuffle_i32x4(w[i + 8], w[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        w[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88); w[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        w[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88); w[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

// Which numbers of two rows become pairs: of the first 16 columns, and of the others
struct alignas(64) Pairing {
    uint16_t first[32], second[32];
    Pairing() { for (int i = 0; i < 16; i++) { first[2 * i] = i; first[2 * i + 1] = 32 + i; second[2 * i] = 16 + i; second[2 * i + 1] = 48 + i; } }
};

// A matrix; `turned`: its columns lie one behind the other instead of its rows
struct Matrix {
    const Half* at;
    int64_t stride;
    bool turned;
};

// 16 rows from `row`, 32 numbers each, as they lie beside each other; zero behind the end
static inline void read_rows(const Matrix& m, int64_t row, int64_t rows, int64_t column, int64_t columns, __m512i w[16]) {
    int64_t tall = std::min<int64_t>(16, rows - row), broad = columns - column;
    const Half* from = m.at + row * m.stride + column;
    if (tall == 16 && broad >= STEP) { for (int i = 0; i < 16; i++) w[i] = _mm512_loadu_si512(from + i * m.stride); return; }
    __mmask32 seen = broad >= STEP ? ~0u : (1u << std::max<int64_t>(broad, 0)) - 1;
    for (int i = 0; i < 16; i++) w[i] = i < tall ? _mm512_maskz_loadu_epi16(seen, from + i * m.stride) : _mm512_setzero_si512();
}

// Of 32 rows whose columns lie beside each other, 16 pairs of columns: the pairs of the first 16 rows, and of the others
static inline void read_pairs(const Matrix& m, int64_t row, int64_t rows, int64_t column, int64_t columns, __m512i low[16], __m512i high[16]) {
    static const Pairing pairing;
    const __m512i first = _mm512_load_si512(pairing.first), second = _mm512_load_si512(pairing.second);
    const Half* from = m.at + column * m.stride + row;
    bool whole = rows - row >= SIDE && columns - column >= STEP;
    __mmask32 seen = rows - row >= SIDE ? ~0u : (1u << std::max<int64_t>(rows - row, 0)) - 1;
    for (int64_t i = 0; i < 16; i++) {
        __m512i one, other;
        if (whole) { one = _mm512_loadu_si512(from + 2 * i * m.stride); other = _mm512_loadu_si512(from + (2 * i + 1) * m.stride); }
        else {
            one = column + 2 * i < columns ? _mm512_maskz_loadu_epi16(seen, from + 2 * i * m.stride) : _mm512_setzero_si512();
            other = column + 2 * i + 1 < columns ? _mm512_maskz_loadu_epi16(seen, from + (2 * i + 1) * m.stride) : _mm512_setzero_si512();
        }
        low[i] = _mm512_permutex2var_epi16(one, first, other);
        high[i] = _mm512_permutex2var_epi16(one, second, other);
    }
}

static inline void put(const __m512i w[16], Half* to) { for (int i = 0; i < 16; i++) _mm512_store_si512((__m512i*)(to + i * STEP), w[i]); }

// Two tiles of the left factor: 32 of its rows, 32 terms each
static inline void order_left(const Matrix& m, int64_t row, int64_t rows, int64_t term, int64_t terms, Half* to) {
    __m512i low[16], high[16];
    if (m.turned) { read_pairs(m, row, rows, term, terms, low, high); turn_words(low); turn_words(high); }
    else { read_rows(m, row, rows, term, terms, low); read_rows(m, row + 16, rows, term, terms, high); }
    put(low, to);
    put(high, to + TILE);
}

// Two tiles of the right factor: 32 of its columns, 16 pairs of terms each; `m`: (columns, terms)
static inline void order_right(const Matrix& m, int64_t column, int64_t columns, int64_t term, int64_t terms, Half* to) {
    __m512i low[16], high[16];
    if (m.turned) read_pairs(m, column, columns, term, terms, low, high);
    else { read_rows(m, column, columns, term, terms, low); read_rows(m, column + 16, columns, term, terms, high); turn_words(low); turn_words(high); }
    put(low, to);
    put(high, to + TILE);
}

// 32 × 32 sums over so many steps; tiles of the right factor lie in pairs, those of the left one `next` numbers apart, its 16 lower rows `low` further.
static inline void sum_tiles(const Half* left, int64_t low, int64_t stride, int64_t next, const Half* right, int64_t steps, float* sums, bool more) {
    if (more) { _tile_loadd(0, sums, 128); _tile_loadd(1, sums + 16, 128); _tile_loadd(2, sums + 16 * SIDE, 128); _tile_loadd(3, sums + 16 * SIDE + 16, 128); }
    else { _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); }
    for (int64_t k = 0; k < steps; k++) {
        _tile_loadd(6, right + 2 * k * TILE, 64);
        _tile_loadd(4, left + k * next, 2 * stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, right + (2 * k + 1) * TILE, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, left + low + k * next, 2 * stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, 128); _tile_stored(1, sums + 16, 128); _tile_stored(2, sums + 16 * SIDE, 128); _tile_stored(3, sums + 16 * SIDE + 16, 128);
}
