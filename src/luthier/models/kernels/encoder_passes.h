// What an encoder's block computes between its products, in bf16: dropout, sum and layer norm in one pass, and GELU. models/kernels/tile_kernels.cpp includes it.
#pragma once
#include "keyed_dropout.h"

// The error function from exp(-x²) (Abramowitz & Stegun 1964, 7.1.26: off by 1.5e-7 at most), for x ≥ 0
static inline Floats erf_from(Floats x, Floats power) {
    Floats t = 1.0f / (1.0f + 0.3275911f * x);
    Floats p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f; p = p * t - 0.284496736f; p = p * t + 0.254829592f;
    return 1.0f - p * t * power;
}

// The share of a number that GELU lets through (Hendrycks & Gimpel 2016): the normal distribution at it, and its density there
static inline void normal_at(Floats x, Floats& share, Floats& density) {
    Floats power = exponential_or_nan(x * x * -0.5f), half = erf_from((Floats)_mm512_abs_ps((__m512)x) * 0.70710678f, power) * 0.5f;
    share = 0.5f + (Floats)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)x, _mm512_setzero_ps(), _CMP_LT_OQ), (__m512)half, (__m512)(-half));
    density = power * 0.39894228f;
}

extern "C" {

void luthier_gelu(const Half* x, Half* said, int64_t count, int threads) {
    sweep_threads(count, threads, [=](int64_t i, int64_t n) {
        Floats v = read(x + i, n), share, density;
        normal_at(v, share, density);
        write(said + i, v * share, n);
    });
}

void luthier_gelu_backward(const Half* x, const Half* d_said, Half* said, Half* d_x, int64_t count, int threads) {
    sweep_threads(count, threads, [=](int64_t i, int64_t n) {
        Floats v = read(x + i, n), share, density;
        normal_at(v, share, density);
        write(said + i, v * share, n);
        write(d_x + i, read(d_said + i, n) * (share + v * density), n);
    });
}

// sum: of `rest` and of what dropout leaves of x; said: its layer norm; factors: of each row the mean and what it was multiplied by
void luthier_add_norm(const Half* x, const Half* rest, const KeyedDropout* drops, const Half* weight, const Half* bias, float eps, Half* sum, Half* said, float* factors, int64_t rows,
                      int64_t width, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const Half *in = x + row * width, *past = rest + row * width;
        Half* both = sum + row * width;
        Floats total = {}, squares = {};
        sweep_kept(*drops, row, width, [&](int64_t i, int64_t n, __mmask16 kept) {
            Floats v = rounded((Floats)_mm512_maskz_mov_ps(kept, (__m512)rounded(read(in + i, n) * drops->factor)) + read(past + i, n));
            write(both + i, v, n);
            total += v;
        });
        float mean = sum_of(total) / width;
        sweep(width, [&](int64_t i, int64_t n) { Floats v = read(both + i, n, mean) - mean; squares += v * v; });
        float by = 1.0f / std::sqrt(sum_of(squares) / width + eps);
        sweep(width, [&](int64_t i, int64_t n) { write(said + row * width + i, (read(both + i, n) - mean) * by * read(weight + i, n) + read(bias + i, n), n); });
        factors[2 * row] = mean;
        factors[2 * row + 1] = by;
    }
}

// d_rest: the gradient of the sum; d_x: what dropout leaves of it
void luthier_add_norm_backward(const Half* d_said, const Half* sum, const float* factors, const KeyedDropout* drops, const Half* weight, Half* d_rest, Half* d_x, int64_t rows, int64_t width,
                               int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const Half *d = d_said + row * width, *both = sum + row * width;
        float mean = factors[2 * row], by = factors[2 * row + 1];
        Floats total = {}, products = {};
        sweep(width, [&](int64_t i, int64_t n) { Floats g = read(d + i, n) * read(weight + i, n); total += g; products += g * ((read(both + i, n) - mean) * by); });
        float level = sum_of(total) / width, slope = sum_of(products) / width;
        sweep_kept(*drops, row, width, [&](int64_t i, int64_t n, __mmask16 kept) {
            Floats g = rounded((read(d + i, n) * read(weight + i, n) - level - (read(both + i, n) - mean) * by * slope) * by);
            write(d_rest + row * width + i, g, n);
            if (d_x != d_rest) write(d_x + row * width + i, (Floats)_mm512_maskz_mov_ps(kept, (__m512)(g * drops->factor)), n);
        });
    }
}

void luthier_norm_weights_backward(const Half* d_said, const Half* sum, const float* factors, float* d_weight, float* d_bias, int64_t rows, int64_t width, int threads) {
    float* to[2] = {d_weight, d_bias};
    sum_columns<2>(rows, width, to, threads, [=](int64_t row, int64_t place, int64_t n, Floats* part) {
        Floats d = read(d_said + row * width + place, n);
        part[0] += d * ((read(sum + row * width + place, n) - factors[2 * row]) * factors[2 * row + 1]);
        part[1] += d;
    });
}

void luthier_column_sums(const Half* values, int64_t stride, float* sums, int64_t rows, int64_t width, int threads) {
    float* to[1] = {sums};
    sum_columns<1>(rows, width, to, threads, [=](int64_t row, int64_t place, int64_t n, Floats* part) { part[0] += read(values + row * stride + place, n); });
}
}
