// A step of CBOW with negative sampling, and AdaGrad on the rows of a table that a step has read; models/kernels/word_kernels.py compiles and calls it.
//
// Every sum is taken in an order that follows from the words alone, not from threads: equal words give equal bits on any number of them.
#include "products.h"
#include <cmath>
#include <omp.h>
#include <vector>

static const int BROAD = 3;  // vectors of columns of a tile of a product
static const int SHARING = 64;  // words that share their negative samples, as in objectives/windows.py
static const int WIDEST = 32;   // words of a window, to either side
static const int AT_ONCE = 4;   // groups of a thread before their gradients are added up

extern "C" {
struct Windows {  // words: reach more on either side; left and right: words of each window; noise: (groups, samples)
    const int64_t* words; const int32_t* left; const int32_t* right; const int64_t* noise;
    int32_t groups, samples, reach; float negatives;
};
struct Gradient { int64_t* rows; float* values; int64_t count; };  // rows ascending, each once; values: (count, width)
}

static inline Floats exponential_of_negative(Floats x) {  // for x up to 0; what lies below -87 is taken as -87
    Floats low = broadcast(-87.0f);
    return exponential_within(x < low ? low : x);
}

// The logarithm of 1 + e^x, added up: the sum of what is above zero, and the product of 1 + e^-|x|, of which one logarithm is taken in the end. At most 64 factors of
// at most 2 are multiplied.
struct Softplus {
    Floats above = {}, product = broadcast(1.0f);
    inline Floats add(Floats x, Floats counts) {  // returns the slope, 1 / (1 + e^-x); counts: 1, or 0 for what fills up
        Floats zero = {};
        Floats small = exponential_of_negative(x > zero ? -x : x);
        above += (x > zero ? x : zero) * counts;
        product *= small * counts + 1.0f;
        return (x > zero ? broadcast(1.0f) : small) / (small + 1.0f) * counts;
    }
    double sum() const {
        double total = 0;
        for (int i = 0; i < LANES; i++) total += (double)above[i] + std::log((double)product[i]);
        return total;
    }
};

// What a group of words works in; rows are filled up with zeros to whole vectors.
struct Room {
    int width, samples;  // filled up
    std::vector<float> around, means, centres, noise, crossed, slopes, at_means, at_around, at_noise;
    float right[SHARING], share[SHARING];
    double loss;
    int64_t words;
    Room(int width, int samples, int reach)
        : width(whole(width)), samples(whole(samples)), around((SHARING + 2 * reach) * this->width), means(SHARING * this->width), centres(SHARING * this->width),
          noise(this->samples * this->width), crossed(this->width * this->samples), slopes(SHARING * this->samples), at_means(SHARING * this->width),
          at_around((SHARING + 2 * reach) * this->width), at_noise(this->samples * this->width), right(), share(), loss(0), words(0) {}
};

static void read_rows(const float* table, int width, const int64_t* words, int count, float* into, int stride) {
    for (int i = 0; i < count; i++) std::memcpy(into + (int64_t)i * stride, table + words[i] * width, width * sizeof(float));
}

// The sum of some rows times a factor, for N vectors of columns
template <int N>
static inline void sum_columns(const float* table, int stride, const int* rows, int count, float factor, float* into) {
    Floats sum[N] = {};
    for (int i = 0; i < count; i++) for (int n = 0; n < N; n++) sum[n] += at(table + (int64_t)rows[i] * stride + n * LANES);
    for (int n = 0; n < N; n++) at(into + n * LANES) = sum[n] * factor;
}

static void sum_rows(const float* table, int width, const int* rows, int count, float factor, float* into) {
    int d = 0;
    for (; d + 4 * LANES <= width; d += 4 * LANES) sum_columns<4>(table + d, width, rows, count, factor, into + d);
    switch ((width - d) / LANES) {
        case 3: sum_columns<3>(table + d, width, rows, count, factor, into + d); break;
        case 2: sum_columns<2>(table + d, width, rows, count, factor, into + d); break;
        case 1: sum_columns<1>(table + d, width, rows, count, factor, into + d); break;
    }
}

// The mean of each word's window, and 1 / the words in it; 0 where it is empty.
static void average(const Windows& windows, int first, Room& room) {
    const int W = room.width;
    room.words = 0;
    for (int i = 0; i < SHARING; i++) {
        int left = windows.left[first + i], right = windows.right[first + i], centre = i + windows.reach;
        room.words += left + right > 0;
        room.share[i] = left + right > 0 ? 1.0f / (left + right) : 0.0f;
        int near[2 * WIDEST], count = 0;
        for (int j = centre - left; j <= centre + right; j++) if (j != centre) near[count++] = j;
        sum_rows(room.around.data(), W, near, count, room.share[i], &room.means[(int64_t)i * W]);
    }
}

// The loss of the negative samples, and how it grows with their scores.
static double score_noise(const Windows& windows, Room& room) {
    const int W = room.width, S = room.samples;
    for (int d = 0; d < W; d++) for (int s = 0; s < S; s++) room.crossed[(int64_t)d * S + s] = room.noise[(int64_t)s * W + d];
    multiply<BROAD>(room.means.data(), W, 1, room.crossed.data(), S, W, room.slopes.data(), S, SHARING, S);
    const float weight = windows.negatives / windows.samples;
    double total = 0;
    for (int s = 0; s < S; s += LANES) {
        Floats counts;
        for (int lane = 0; lane < LANES; lane++) counts[lane] = s + lane < windows.samples;
        Softplus losses;
        for (int i = 0; i < SHARING; i++) {
            Floats& slope = at(&room.slopes[(int64_t)i * S + s]);
            slope = room.share[i] ? losses.add(slope, counts) * weight : Floats{};
        }
        total += losses.sum();
    }
    return total * weight;
}

// The loss of the words themselves, and how it grows with their scores.
static double score_right(Room& room) {
    const int W = room.width;
    for (int i = 0; i < SHARING; i++) {
        Floats sum = {};
        for (int d = 0; d < W; d += LANES) sum += at(&room.means[(int64_t)i * W + d]) * at(&room.centres[(int64_t)i * W + d]);
        float score = 0;
        for (int lane = 0; lane < LANES; lane++) score += sum[lane];
        room.right[i] = -score;
    }
    Softplus losses;
    for (int i = 0; i < SHARING; i += LANES) {
        Floats counts;
        for (int lane = 0; lane < LANES; lane++) counts[lane] = room.share[i + lane] > 0;
        at(room.right + i) = -losses.add(at(room.right + i), counts);
    }
    return losses.sum();
}

// The gradients of a group at its negative samples, at the words that are guessed (in place of their vectors), and at those of the windows.
static void descend(const Windows& windows, int first, Room& room) {
    const int W = room.width, S = room.samples, reach = windows.reach;
    multiply<BROAD>(room.slopes.data(), S, 1, room.noise.data(), W, S, room.at_means.data(), W, SHARING, W);
    multiply<BROAD>(room.slopes.data(), 1, S, room.means.data(), W, SHARING, room.at_noise.data(), W, S, W);
    for (int i = 0; i < SHARING; i++)
        for (int64_t d = (int64_t)i * W; d < (int64_t)(i + 1) * W; d += LANES) {
            at(&room.at_means[d]) = (at(&room.at_means[d]) + at(&room.centres[d]) * room.right[i]) * room.share[i];
            at(&room.centres[d]) = at(&room.means[d]) * room.right[i];
        }
    for (int j = 0; j < SHARING + 2 * reach; j++) {
        int near[2 * WIDEST + 1], count = 0;  // the words whose windows hold this one
        for (int i = std::max(0, j - 2 * reach); i <= std::min(SHARING - 1, j); i++) {
            int away = j - reach - i;
            near[count] = i;  // whether it counts cannot be foreseen, so there is no branch
            count += (away != 0) & (-windows.left[first + i] <= away) & (away <= windows.right[first + i]);
        }
        sum_rows(room.at_means.data(), W, near, count, 1.0f, &room.at_around[(int64_t)j * W]);
    }
}

// Where each word's gradient goes: the words that are there, ascending; slots: of every word of the vocabulary.
static void number_rows(std::vector<int32_t>& slots, Gradient& gradient) {
    gradient.count = 0;
    for (size_t word = 0; word < slots.size(); word++) {
        if (!slots[word]) continue;
        gradient.rows[gradient.count] = word;
        slots[word] = (int32_t)gradient.count++;
    }
}

// Add rows to those of their words; of several threads each adds to some words, so that the order of a word's sum is always that of the text.
static void add_rows(const float* from, int stride, const int64_t* words, int count, const std::vector<int32_t>& slots, Gradient& into, int width, int thread, int threads) {
    for (int i = 0; i < count; i++) {
        int32_t slot = slots[words[i]];
        if (slot % threads != thread) continue;
        float* sum = into.values + (int64_t)slot * width;
        const float* more = from + (int64_t)i * stride;
        int d = 0;
        for (; d + LANES <= width; d += LANES) at(sum + d) += at(more + d);
        for (; d < width; d++) sum[d] += more[d];
    }
}

static void compute_group(const float* inputs, const float* outputs, int width, const Windows& windows, int group, Room& room) {
    const int first = group * SHARING;
    read_rows(inputs, width, windows.words + first, SHARING + 2 * windows.reach, room.around.data(), room.width);
    read_rows(outputs, width, windows.words + first + windows.reach, SHARING, room.centres.data(), room.width);
    read_rows(outputs, width, windows.noise + (int64_t)group * windows.samples, windows.samples, room.noise.data(), room.width);
    average(windows, first, room);
    room.loss = score_noise(windows, room) + score_right(room);
    descend(windows, first, room);
}

extern "C" {

// The summed loss of a step, its gradients at both tables, and how many words have a window.
double luthier_cbow(const float* inputs, const float* outputs, int64_t vocabulary, int width, const Windows* given, Gradient* at_inputs, Gradient* at_outputs, int64_t* words, int threads) {
    const Windows& windows = *given;
    const int count = windows.groups * SHARING, reach = windows.reach;
    std::vector<int32_t> read(vocabulary), guessed(vocabulary);
    for (int i = 0; i < count + 2 * reach; i++) read[windows.words[i]] = 1;
    for (int i = 0; i < count; i++) guessed[windows.words[i + reach]] = 1;
    for (int64_t i = 0; i < (int64_t)windows.groups * windows.samples; i++) guessed[windows.noise[i]] = 1;
    number_rows(read, *at_inputs);
    number_rows(guessed, *at_outputs);
    std::memset(at_inputs->values, 0, at_inputs->count * width * sizeof(float));
    std::memset(at_outputs->values, 0, at_outputs->count * width * sizeof(float));
    threads = std::max(1, std::min(threads, (windows.groups + AT_ONCE - 1) / AT_ONCE));
    const int at_once = threads == 1 ? 1 : threads * AT_ONCE;  // alone, what a group leaves is still in the cache
    std::vector<Room> rooms(at_once, Room(width, windows.samples, reach));
    double total = 0;
    *words = 0;
#pragma omp parallel num_threads(threads)
    for (int start = 0; start < windows.groups; start += at_once) {
        const int here = std::min(at_once, windows.groups - start), thread = omp_get_thread_num(), team = omp_get_num_threads();
#pragma omp for schedule(static)
        for (int i = 0; i < here; i++) compute_group(inputs, outputs, width, windows, start + i, rooms[i]);
        for (int i = 0; i < here; i++) {
            const int first = (start + i) * SHARING, wide = rooms[i].width;
            add_rows(rooms[i].at_around.data(), wide, windows.words + first, SHARING + 2 * reach, read, *at_inputs, width, thread, team);
            add_rows(rooms[i].centres.data(), wide, windows.words + first + reach, SHARING, guessed, *at_outputs, width, thread, team);
            add_rows(rooms[i].at_noise.data(), wide, windows.noise + (int64_t)(start + i) * windows.samples, windows.samples, guessed, *at_outputs, width, thread, team);
            if (thread == 0) total += rooms[i].loss, *words += rooms[i].words;
        }
#pragma omp barrier
    }
    return total;
}

// AdaGrad on some rows of a table: each number's squared gradients are added up, and it moves by the gradient over the root of that sum.
void luthier_adagrad(float* table, float* squares, const int64_t* rows, const float* gradient, int64_t count, int width, float rate, float eps, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < count; i++) {
        float* __restrict__ row = table + rows[i] * width;
        float* __restrict__ square = squares + rows[i] * width;
        const float* __restrict__ by = gradient + i * width;
        for (int d = 0; d < width; d++) {
            square[d] += by[d] * by[d];
            row[d] -= rate * (by[d] / (std::sqrt(square[d]) + eps));
        }
    }
}

}
