// What networks for images compute between their products: batch norm with the residual and the ReLU behind it, max pooling, and the windows that a convolution reads (im2col); in fp32 or bf16, channels last.
#include "bf16.h"
#include <limits>
#include <vector>

#define INLINE __attribute__((always_inline))  // a lambda that is called for whole registers and for what is left would else be one function for both

typedef uint8_t Codes __attribute__((vector_size(LANES), aligned(1)));
static const int64_t BLOCK = 512;  // rows that are added up before they join the others: the same bits on any number of threads
static const float LOWEST = -std::numeric_limits<float>::infinity();

// Between which a norm's outputs are clamped: from 0 up by a ReLU, up to 6 by a ReLU6; without one both are infinite.
struct Bounds { float floor, ceiling; };

static inline Floats bounded(Floats z, Bounds bounds) {
    Floats floor = broadcast(bounds.floor), ceiling = broadcast(bounds.ceiling);
    Floats above = z < floor ? floor : z;  // what is not a number stays so
    return above > ceiling ? ceiling : above;
}

static inline Floats masked(Floats d, Floats z, Bounds bounds) {  // the gradient where z was not bounded
    return (z <= bounds.floor) | (z >= bounds.ceiling) ? Floats{} : d;
}

template <int VECTORS, class Each>
static inline void add_rows(int64_t first, int64_t last, int64_t start, int64_t count, float* to, int64_t width, Each each) {
    Floats total[VECTORS][2] = {};
    for (int64_t row = first; row < last; row++)
        for (int v = 0; v < VECTORS; v++) each(row, start + v * LANES, count, total[v]);
    for (int v = 0; v < VECTORS; v++)
        for (int i = 0; i < 2; i++) write(to + i * width + start + v * LANES, total[v][i], count);
}

// Two sums over all rows for each column, of what `each` adds to them for a row and a place, # (2, width)
template <class Each>
static std::vector<double> sum_rows(int64_t rows, int64_t width, int threads, Each each) {
    int64_t blocks = (rows + BLOCK - 1) / BLOCK;
    std::vector<float> parts(blocks * 2 * width);
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t first = block * BLOCK, last = std::min(first + BLOCK, rows), start = 0;
        float* to = &parts[block * 2 * width];
        for (; start + 4 * LANES <= width; start += 4 * LANES) add_rows<4>(first, last, start, (int64_t)LANES, to, width, each);
        for (; start + 2 * LANES <= width; start += 2 * LANES) add_rows<2>(first, last, start, (int64_t)LANES, to, width, each);
        for (; start < width; start += LANES) add_rows<1>(first, last, start, std::min<int64_t>(LANES, width - start), to, width, each);
    }
    std::vector<double> sums(2 * width);
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t i = 0; i < 2 * width; i++) sums[i] += parts[block * 2 * width + i];
    return sums;
}

// For each row and place, over all rows
template <class Each>
static void for_rows(int64_t rows, int64_t width, int threads, Each each) {
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t first = 0; first < rows; first += BLOCK)
        for (int64_t row = first; row < std::min(first + BLOCK, rows); row++) sweep(width, [&](int64_t i, int64_t n) INLINE { each(row * width + i, i, n); });
}

// x: (rows, width), read against its own mean and variance, times `weight`, plus `bias` and `residual`, within bounds; `residual` may be missing.
// mean, variance, inverse: (width,), the last 1 / sqrt(variance + eps); scale, offset: (width,), with which a number becomes x * scale + offset
template <typename T>
static void norm(const T* x, const T* residual, const float* weight, const float* bias, float eps, Bounds bounds, T* y, float* mean, float* variance,
                 float* inverse, float* scale, float* offset, int64_t rows, int64_t width, int threads) {
    std::vector<float> shift(width);  // near the mean: squares of what is left lose no digits
    sweep(width, [&](int64_t i, int64_t n) INLINE { write(&shift[i], read(x + i, n), n); });
    std::vector<double> sums = sum_rows(rows, width, threads, [&](int64_t row, int64_t i, int64_t n, Floats* sum) INLINE {
        Floats left = read(x + row * width + i, n) - read(&shift[i], n);
        sum[0] += left;
        sum[1] += left * left;
    });
    for (int64_t i = 0; i < width; i++) {
        double left = sums[i] / rows, spread = std::max(sums[width + i] / rows - left * left, 0.0), own = shift[i] + left;
        mean[i] = (float)own;
        variance[i] = (float)spread;
        inverse[i] = (float)(1.0 / std::sqrt(spread + (double)eps));
        scale[i] = weight[i] * inverse[i];
        offset[i] = (float)(bias[i] - own * scale[i]);
    }
    if (residual)
        for_rows(rows, width, threads, [&](int64_t at, int64_t i, int64_t n) INLINE {
            write(y + at, bounded(read(x + at, n) * read(scale + i, n) + read(offset + i, n) + read(residual + at, n), bounds), n);
        });
    else
        for_rows(rows, width, threads, [&](int64_t at, int64_t i, int64_t n) INLINE {
            write(y + at, bounded(read(x + at, n) * read(scale + i, n) + read(offset + i, n), bounds), n);
        });
}

// The gradients of x, weight and bias; where a residual was added (y: what was said), its own in d_residual
template <typename T>
static void norm_back(const T* d_y, const T* x, const T* y, const float* mean, const float* inverse, const float* scale, const float* offset, Bounds bounds,
                      T* d_x, T* d_residual, float* d_weight, float* d_bias, int64_t rows, int64_t width, int threads) {
    auto masked_at = [&](int64_t at, int64_t i, int64_t n, Floats left) INLINE {
        Floats z = y ? read(y + at, n) : left * read(scale + i, n) + read(offset + i, n);
        return masked(read(d_y + at, n), z, bounds);
    };
    std::vector<double> sums = sum_rows(rows, width, threads, [&](int64_t row, int64_t i, int64_t n, Floats* sum) INLINE {
        int64_t at = row * width + i;
        Floats here = read(x + at, n), d = masked_at(at, i, n, here);
        if (d_residual) write(d_residual + at, d, n);
        sum[0] += d;
        sum[1] += d * (here - read(mean + i, n));
    });
    std::vector<float> level(width), slope(width);
    for (int64_t i = 0; i < width; i++) {
        d_bias[i] = (float)sums[i];
        d_weight[i] = (float)(sums[width + i] * inverse[i]);
        level[i] = (float)(sums[i] / rows);
        slope[i] = (float)(sums[width + i] / rows * inverse[i] * inverse[i]);
    }
    if (!d_x) return;
    for_rows(rows, width, threads, [&](int64_t at, int64_t i, int64_t n) INLINE {
        Floats here = read(x + at, n), d = d_residual ? read(d_residual + at, n) : masked_at(at, i, n, here);
        write(d_x + at, (d - read(&level[i], n) - (here - read(mean + i, n)) * read(&slope[i], n)) * read(scale + i, n), n);
    });
}

struct Windows { int64_t images, height, width, channels, kernel, stride, padding, high, wide; };  // high, wide: how many there are, downwards and across

// The windows that a place is in: those numbered `first` to `last` of `count`
struct Within { int64_t first, last; };
static inline Within within(int64_t place, int64_t count, const Windows& p) {
    int64_t at = place + p.padding;
    return {at < p.kernel ? 0 : (at - p.kernel) / p.stride + 1, std::min(at / p.stride, count - 1)};
}

// For each place of the maps, all its windows: `each` is given the place, a channel, and calls back with a window and the place's number in it
template <class Each>
static void for_places(const Windows& p, int threads, Each each) {
    std::vector<Within> across(p.width);
    for (int64_t place = 0; place < p.width; place++) across[place] = within(place, p.wide, p);
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t line = 0; line < p.images * p.height; line++) {
        int64_t image = line / p.height, down = line % p.height;
        Within rows = within(down, p.high, p);
        for (int64_t place = 0; place < p.width; place++) {
            Within columns = across[place];
            auto visit = [&](auto window) INLINE {
                for (int64_t i = rows.first; i <= rows.last; i++)
                    for (int64_t j = columns.first; j <= columns.last; j++)
                        window((image * p.high + i) * p.wide + j, (down + p.padding - i * p.stride) * p.kernel + place + p.padding - j * p.stride);
            };
            each(line * p.width + place, visit);
        }
    }
}

// The largest of each window, and its number within the window: (images, high, wide, channels)
template <typename T>
static void pool(const T* x, const Windows& p, T* y, uint8_t* chosen, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t line = 0; line < p.images * p.high; line++) {
        int64_t image = line / p.high, top = line % p.high * p.stride - p.padding;
        for (int64_t place = 0; place < p.wide; place++) {
            int64_t side = place * p.stride - p.padding, to = (line * p.wide + place) * p.channels;
            sweep(p.channels, [&](int64_t c, int64_t n) INLINE {
                Floats best = broadcast(LOWEST);
                Ints which = Ints{} - 1;
                for (int64_t i = std::max<int64_t>(0, -top); i < std::min(p.kernel, p.height - top); i++)
                    for (int64_t j = std::max<int64_t>(0, -side); j < std::min(p.kernel, p.width - side); j++) {
                        Floats here = read(x + ((image * p.height + top + i) * p.width + side + j) * p.channels + c, n);
                        Ints better = (here > best) | (here != here) | (which < 0);
                        best = better ? here : best;
                        which = better ? Ints{} + (int32_t)(i * p.kernel + j) : which;
                    }
                write(y + to + c, best, n);
                Codes codes = __builtin_convertvector(which, Codes);
                std::memcpy(chosen + to + c, &codes, n);
            });
        }
    }
}

template <typename T>
static void pool_back(const T* d_y, const uint8_t* chosen, const Windows& p, T* d_x, int threads) {
    for_places(p, threads, [&](int64_t place, auto visit) INLINE {
        sweep(p.channels, [&](int64_t c, int64_t n) INLINE {
            Floats d = {};
            visit([&](int64_t window, int64_t number) INLINE {
                Codes codes = {};
                std::memcpy(&codes, chosen + window * p.channels + c, n);
                d += __builtin_convertvector(codes, Ints) == (int32_t)number ? read(d_y + window * p.channels + c, n) : Floats{};
            });
            write(d_x + place * p.channels + c, d, n);
        });
    });
}

// What a convolution reads for each place of its output (im2col): (images × high × wide, kernel × kernel × channels), zero beyond the maps
template <typename T>
static void windows(const T* x, const Windows& p, T* y, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t line = 0; line < p.images * p.high; line++) {
        int64_t image = line / p.high, top = line % p.high * p.stride - p.padding;
        T* to = y + line * p.wide * p.kernel * p.kernel * p.channels;
        for (int64_t place = 0; place < p.wide; place++)
            for (int64_t i = top; i < top + p.kernel; i++)
                for (int64_t k = 0, j = place * p.stride - p.padding; k < p.kernel; k++, j++, to += p.channels)
                    if (i < 0 || i >= p.height || j < 0 || j >= p.width) std::memset(to, 0, p.channels * sizeof(T));
                    else std::memcpy(to, x + ((image * p.height + i) * p.width + j) * p.channels, p.channels * sizeof(T));
    }
}

// Its transpose (col2im): the gradient of the maps from that of what is read
template <typename T>
static void windows_back(const T* d_y, const Windows& p, T* d_x, int threads) {
    int64_t numbers = p.kernel * p.kernel;
    for_places(p, threads, [&](int64_t place, auto visit) INLINE {
        sweep(p.channels, [&](int64_t c, int64_t n) INLINE {
            Floats d = {};
            visit([&](int64_t window, int64_t number) INLINE { d += read(d_y + (window * numbers + number) * p.channels + c, n); });
            write(d_x + place * p.channels + c, d, n);
        });
    });
}

#define FOR(T, NAME) \
    extern "C" void luthier_norm_##NAME(const T* x, const T* residual, const float* weight, const float* bias, float eps, float floor, float ceiling, T* y, \
                                        float* mean, float* variance, float* inverse, float* scale, float* offset, int64_t rows, int64_t width, int threads) { \
        norm(x, residual, weight, bias, eps, Bounds{floor, ceiling}, y, mean, variance, inverse, scale, offset, rows, width, threads); \
    } \
    extern "C" void luthier_norm_backward_##NAME(const T* d_y, const T* x, const T* y, const float* mean, const float* inverse, const float* scale, \
                                                 const float* offset, float floor, float ceiling, T* d_x, T* d_residual, float* d_weight, float* d_bias, \
                                                 int64_t rows, int64_t width, int threads) { \
        norm_back(d_y, x, y, mean, inverse, scale, offset, Bounds{floor, ceiling}, d_x, d_residual, d_weight, d_bias, rows, width, threads); \
    } \
    extern "C" void luthier_pool_##NAME(const T* x, const Windows* p, T* y, uint8_t* chosen, int threads) { pool(x, *p, y, chosen, threads); } \
    extern "C" void luthier_pool_backward_##NAME(const T* d_y, const uint8_t* chosen, const Windows* p, T* d_x, int threads) { pool_back(d_y, chosen, *p, d_x, threads); } \
    extern "C" void luthier_windows_##NAME(const T* x, const Windows* p, T* y, int threads) { windows(x, *p, y, threads); } \
    extern "C" void luthier_windows_backward_##NAME(const T* d_y, const Windows* p, T* d_x, int threads) { windows_back(d_y, *p, d_x, threads); }

FOR(float, float32)
FOR(Half, bfloat16)
