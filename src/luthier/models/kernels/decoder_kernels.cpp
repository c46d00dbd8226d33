// What a decoder computes between its large products, in bf16, and attention within short rows; models/kernels/decoder_kernels.py compiles and calls it.
//
// Sums and powers are taken in fp32. Each sum has an order that follows from the numbers' places alone: on any number of threads the same bits.
#include "row_attention.h"

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
    sum_columns<1>(rows, width, &d_weight, threads, [=](int64_t row, int64_t place, int64_t n, Floats* part) {
        part[0] += read(d_said + row * width + place, n) * (read(x + row * width + place, n) * factor[row]);
    });
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
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t token = 0; token < tokens; token++)
        for (int64_t head = 0; head < heads; head++)
            rotate(x + token * x_row + head * width, cos + token * width, sin + token * width, *factor, 1.0f, width, out + (token * heads + head) * width);
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
            Floats p = seen ? exponential_or_nan(read(score + row * length + i, n) - total[row]) : zero;
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
        sweep(vocabulary, [&](int64_t i, int64_t n) { Floats p = exponential_or_nan(read(said + i, n, lowest) - largest); sum += n == LANES ? p : read((float*)&p, n); });
        float total = std::log(sum_of(sum)) + largest;
        int64_t right = target[row];
        bool known = right >= 0 && right < vocabulary;
        lost[row] = known ? total - read(said + right, 1)[0] : nothing;
        float hit = known ? std::exp(read(said + right, 1)[0] - total) - 1.0f : nothing;
        sweep(vocabulary, [&](int64_t i, int64_t n) { write(said + i, exponential_or_nan(read(said + i, n) - total), n); });
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
