// Products of small matrices, in tiles whose sums the registers hold: of fp32 numbers, and of pairs of bf16 numbers (row_attention.h).
#pragma once
#include "registers.h"
#include <algorithm>

static const int TALL = LANES == 16 ? 8 : 4;  // rows of a tile, an even number

// How what a matrix is made of is read and multiplied.
template <typename T> struct Numbers;
template <> struct Numbers<float> {
    typedef Floats Vector;
    static inline Floats read(const float* place) { return at(place); }
    static inline Floats add_product(Floats sum, float x, Floats each) { return sum + x * each; }
};

// c = a × b, for M rows and N vectors of columns
template <int M, int N, typename T>
static inline void tile(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t b_row, int depth, float* c, int64_t c_row) {
    Floats sum[M][N] = {};
    for (int k = 0; k < depth; k++) {
        typename Numbers<T>::Vector each[N];
        for (int n = 0; n < N; n++) each[n] = Numbers<T>::read(b + k * b_row + n * LANES);
        for (int m = 0; m < M; m++)
            for (int n = 0; n < N; n++) sum[m][n] = Numbers<T>::add_product(sum[m][n], a[m * a_row + k * a_step], each[n]);
    }
    for (int m = 0; m < M; m++) for (int n = 0; n < N; n++) at(c + m * c_row + n * LANES) = sum[m][n];
}

template <int N, typename T>
static void strip(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t b_row, int depth, float* c, int64_t c_row, int rows) {
    int row = 0;
    for (; row + TALL <= rows; row += TALL) tile<TALL, N>(a + row * a_row, a_row, a_step, b, b_row, depth, c + row * c_row, c_row);
    for (; row < rows; row++) tile<1, N>(a + row * a_row, a_row, a_step, b, b_row, depth, c + row * c_row, c_row);
}

// c = a × b, at most BROAD vectors of columns at once; columns come in whole vectors
template <int BROAD, typename T>
static void multiply(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t b_row, int depth, float* c, int64_t c_row, int rows, int columns) {
    for (int vectors = columns / LANES; vectors > 0;) {
        int now = vectors == 4 ? 2 : std::min(vectors, BROAD);
        if (BROAD > 2 && now == 3) strip<BROAD>(a, a_row, a_step, b, b_row, depth, c, c_row, rows);
        else if (now == 2) strip<2>(a, a_row, a_step, b, b_row, depth, c, c_row, rows);
        else strip<1>(a, a_row, a_step, b, b_row, depth, c, c_row, rows);
        b += now * LANES; c += now * LANES; vectors -= now;
    }
}

static inline int64_t whole(int64_t numbers) { return (numbers + LANES - 1) / LANES * LANES; }  // filled up to whole vectors
