// What code in C++ computes with: as many numbers at once as one register holds, their exponential and their sum. models/kernels/shared_library.py puts this file before the compiler.
#pragma once
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
static inline Floats load(const float* place) { return at(place); }

static inline Floats exponential(Floats x) {  // 0 for what lies below -87
    Floats low = broadcast(-87.0f), high = broadcast(88.0f);
    Ints tiny = x < low;
    x = tiny ? low : x;
    x = x > high ? high : x;
    return tiny ? broadcast(0.0f) : exponential_within(x);
}

static inline float add_up(Floats x) {
    float part[LANES], told = 0;
    for (int i = 0; i < LANES; i++) part[i] = x[i];
    for (int half = LANES / 2; half >= 4; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    for (int i = 0; i < 4; i++) told += part[i];
    return told;
}
