// What code in C++ computes with: as many numbers at once as one register holds, their exponential, and products of small matrices. models/shared_library.py puts this file before the compiler.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

// As many numbers as one register holds: the compiler keeps wider ones in memory, and each operation then reads and writes it.
#if defined(__AVX512F__)
static const int LANES = 16;
#elif defined(__AVX2__)
static const int LANES = 8;
#else
static const int LANES = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4)));  // wherever they lie
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4)));

static inline Floats broadcast(float x) { return x - Floats{}; }  // unlike a sum with zero, this keeps the sign of zero and costs nothing

static inline Floats exponential_within(Floats x) {  // Cephes' expf, from -87 to 88
    Floats n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats p = broadcast(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f; p = p * r + 8.3334519073e-3f; p = p * r + 4.1665795894e-2f; p = p * r + 1.6666665459e-1f; p = p * r + 5.0000001201e-1f;
    Floats whole = p * r * r + r + 1.0f;
    Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
    Floats scale;
    std::memcpy(&scale, &power, sizeof scale);
    return scale * whole;
}

static inline Floats& at(float* place) { return *(Floats*)place; }
static inline const Floats& at(const float* place) { return *(const Floats*)place; }

static const int TALL = LANES == 16 ? 8 : 4, BROAD = 3;  // rows, and vectors of each, of a tile of a product: the registers hold its sums

// c (+)= a × b, for M rows and N vectors of columns
template <int M, int N>
static inline void tile(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_row, int depth, float* c, int64_t c_row) {
    Floats sum[M][N] = {};
    for (int k = 0; k < depth; k++) {
        Floats each[N];
        for (int n = 0; n < N; n++) each[n] = at(b + k * b_row + n * LANES);
        for (int m = 0; m < M; m++) {
            float x = a[m * a_row + k * a_step];
            for (int n = 0; n < N; n++) sum[m][n] += x * each[n];
        }
    }
    for (int m = 0; m < M; m++) for (int n = 0; n < N; n++) at(c + m * c_row + n * LANES) = sum[m][n];
}

template <int N>
static void strip(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_row, int depth, float* c, int64_t c_row, int rows) {
    int row = 0;
    for (; row + TALL <= rows; row += TALL) tile<TALL, N>(a + row * a_row, a_row, a_step, b, b_row, depth, c + row * c_row, c_row);
    for (; row < rows; row++) tile<1, N>(a + row * a_row, a_row, a_step, b, b_row, depth, c + row * c_row, c_row);
}

// c = a × b; columns come in whole vectors
static void multiply(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_row, int depth, float* c, int64_t c_row, int rows, int columns) {
    for (int vectors = columns / LANES; vectors > 0;) {
        int now = vectors == 4 ? 2 : std::min(vectors, BROAD);
        if (now == 3) strip<3>(a, a_row, a_step, b, b_row, depth, c, c_row, rows);
        else if (now == 2) strip<2>(a, a_row, a_step, b, b_row, depth, c, c_row, rows);
        else strip<1>(a, a_row, a_step, b, b_row, depth, c, c_row, rows);
        b += now * LANES; c += now * LANES; vectors -= now;
    }
}
