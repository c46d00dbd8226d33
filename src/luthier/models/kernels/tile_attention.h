// Softmax attention within rows on matrix tiles, and its gradient, in bf16 and fp32. models/kernels/tile_kernels.cpp includes it.
#pragma once
#include "keyed_dropout.h"
#include "tiles.h"
#include <cmath>
#include <limits>

// Rows lie in a stream of tokens; several may have the same tokens at their beginning, which then go through the network once.
struct Rows {
    const int64_t* starts;    // where each row's tokens begin among those of all rows, and the last one's end, (rows + 1)
    const int64_t* before;    // of each row, the tokens before the first one that asks, (rows)
    const int64_t* places;    // where each of these tokens lies in the stream
    const int64_t* meetings;  // of each token of the stream, where the rows' tokens at its place begin in `met`, (tokens + 1): rows of a compressed sparse matrix
    const int64_t* met;       // the rows' tokens, those at the same place of the stream behind each other
    int64_t rows, tokens;
};

// queries, keys and values of a token lie one behind the other
struct Attention {
    int64_t heads, key_heads, width, causal;
    const Half *cos, *sin;     // of each token of the stream, (tokens, width), or none
    float scale;               // of the scores
    KeyedDropout drops;        // the keys are those of the stream's tokens
    const int32_t* head_keys;  // of each head
};

static inline int32_t key_of(const Attention& of, int64_t token, int64_t head) {
    uint32_t key = ((uint32_t)of.drops.keys[token] ^ (uint32_t)of.head_keys[head]) * 0x2C1B3C6Du;
    return (int32_t)(key ^ ((key >> 12) & 0xFFFFF));
}

static inline Floats chosen(Floats floats, __mmask16 seen) { return (Floats)_mm512_maskz_mov_ps(seen, (__m512)floats); }

// What a thread needs of a row and a head, filled up with zeros to whole tiles
struct HeadRoom {
    Room<Half> rooms[12];
    Room<float> floats[5];
    int64_t blocks;  // of 32 tokens
    int64_t wide;    // numbers of a head, in whole blocks of 32
    int64_t steps;   // such blocks
    Half *query, *key, *value, *d_said;                                         // (tokens, wide)
    Half *by_key, *by_value, *key_by_width, *query_by_width, *d_said_by_width;  // in the order of a right factor: what the sum runs over is named last
    Half *share, *d_score;                                                      // the probabilities, and the gradient of the scores, of 32 queries, (32, tokens)
    Half *share_turned, *d_score_turned;                                        // their transposes in the order of a left factor, of ASKING blocks of queries
    float *score, *d_share, *d_key, *d_value, *out;                             // sums
};

static const int64_t ASKING = 8;  // blocks of queries whose gradients at keys and values are added at once

// The numbers of a head, or their gradients, rotated where the attention rotates
template <typename T>
static inline void turn_head(const T* in, const Attention& of, int64_t place, bool rotates, float factor, float way, Half* out) {
    if (rotates && of.cos) rotate(in, of.cos + place * of.width, of.sin + place * of.width, factor, way, of.width, out);
    else sweep(of.width, [&](int64_t i, int64_t n) { write(out + i, read(in + i, n) * factor, n); });
}

// Tokens of a head; zero behind them
static inline void take_tokens(const Half* from, int64_t stride, const int64_t* places, int64_t count, int64_t filled, const Attention& of, bool rotates, float factor, int64_t wide, Half* to) {
    for (int64_t token = 0; token < count; token++) {
        turn_head(from + places[token] * stride, of, places[token], rotates, factor, 1.0f, to + token * wide);
        std::memset(to + token * wide + of.width, 0, 2 * (wide - of.width));
    }
    std::memset(to + count * wide, 0, 2 * (filled - count) * wide);
}

// All of a matrix as the right factor: panels of 32 columns
static inline void order_all(const Matrix& m, int64_t columns, int64_t terms, Half* to) {
    for (int64_t panel = 0; panel < columns / SIDE; panel++)
        for (int64_t k = 0; k < terms / STEP; k++) order_right(m, panel * SIDE, columns, k * STEP, terms, to + (panel * (terms / STEP) + k) * 2 * TILE);
}

static inline void sum_rows(const Half* left, int64_t stride, const Half* right, int64_t steps, float* sums, bool more = false) {
    sum_tiles(left, 16 * stride, stride, STEP, right, steps, sums, more);
}

static inline HeadRoom& open_head(int64_t length, int64_t width, bool backward) {
    static thread_local HeadRoom room;
    room.blocks = parts(length, SIDE); room.steps = parts(width, STEP); room.wide = room.steps * STEP;
    int64_t area = room.blocks * SIDE * room.wide, line = SIDE * room.blocks * SIDE, turned = ASKING * line;
    room.key = room.rooms[0].of(area); room.value = room.rooms[1].of(area);
    room.by_key = room.rooms[2].of(area); room.by_value = room.rooms[3].of(area);
    room.query = room.rooms[4].of(ASKING * SIDE * room.wide); room.share = room.rooms[5].of(line);
    room.score = room.floats[0].of(line); room.out = room.floats[1].of(SIDE * SIDE);
    if (!backward) return room;
    room.key_by_width = room.rooms[6].of(area); room.d_score = room.rooms[7].of(line);
    room.d_said = room.rooms[8].of(ASKING * SIDE * room.wide);
    Half* by_width = room.rooms[9].of(2 * ASKING * SIDE * room.wide);
    room.query_by_width = by_width; room.d_said_by_width = by_width + ASKING * SIDE * room.wide;
    room.share_turned = room.rooms[10].of(turned); room.d_score_turned = room.rooms[11].of(turned);
    room.d_share = room.floats[2].of(std::max(line, SIDE * room.wide)); room.d_key = room.floats[3].of(area); room.d_value = room.floats[4].of(area);
    return room;
}

// The scores of 32 queries with all keys that any of them sees, (panels of 32 keys, 32 queries, 32 keys)
static inline void score_block(const HeadRoom& room, const Half* left, const Half* keys, int64_t panels, float* scores) {
    for (int64_t panel = 0; panel < panels; panel++) sum_rows(left, room.wide, keys + panel * room.steps * 2 * TILE, room.steps, scores + panel * SIDE * SIDE);
}

// Which of 16 places from `column` a query at `last` sees: up to there
static inline __mmask16 seen_until(int64_t column, int64_t last) {
    int64_t count = last - column + 1;
    return count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1;
}

static void attend_row(const Half* given, const Rows& rows, const Attention& of, int64_t row, int64_t key_head, Half* said, float* total) {
    int64_t first = rows.starts[row], length = rows.starts[row + 1] - first, before = rows.before[row], width = of.width, shared = of.heads / of.key_heads;
    int64_t stride = (of.heads + 2 * of.key_heads) * width;
    const int64_t* places = rows.places + first;
    if (before >= length) return;
    HeadRoom& room = open_head(length, width, false);
    int64_t filled = room.blocks * SIDE, wide = room.wide;
    take_tokens(given + (of.heads + key_head) * width, stride, places, length, filled, of, true, 1.0f, wide, room.key);
    take_tokens(given + (of.heads + of.key_heads + key_head) * width, stride, places, length, filled, of, false, 1.0f, wide, room.value);
    order_all({room.key, wide, false}, filled, wide, room.by_key);      // (keys, width)
    order_all({room.value, wide, true}, wide, filled, room.by_value);   // (width, values)
    for (int64_t head = key_head * shared; head < (key_head + 1) * shared; head++)
        for (int64_t start = before; start < length; start += SIDE) {
            int64_t end = std::min(start + SIDE, length), panels = of.causal ? parts(end, SIDE) : room.blocks;
            take_tokens(given + head * width, stride, places + start, end - start, SIDE, of, true, of.scale, wide, room.query);
            score_block(room, room.query, room.by_key, panels, room.score);
            float parted[SIDE];
            for (int64_t asks = 0; asks < SIDE; asks++) {
                Half* share = room.share + asks * panels * SIDE;
                if (start + asks >= end) { std::memset(share, 0, 2 * panels * SIDE); continue; }
                int64_t last = of.causal ? start + asks : length - 1;
                Floats most = broadcast(-std::numeric_limits<float>::infinity()), sum = {};
                for (int64_t panel = 0; panel < panels; panel++)
                    for (int64_t i = 0; i < SIDE; i += LANES) {
                        Floats v = load(room.score + (panel * SIDE + asks) * SIDE + i);
                        most = (Floats)_mm512_mask_max_ps((__m512)most, seen_until(panel * SIDE + i, last), (__m512)most, (__m512)v);
                    }
                float largest = largest_of(most);
                int32_t key = of.drops.keys ? key_of(of, places[start + asks], head) : 0;
                for (int64_t panel = 0; panel < panels; panel++) {
                    __mmask32 left = of.drops.keys ? kept_by(of.drops, key, panel * SIDE) : ~0u;
                    for (int64_t i = 0; i < SIDE; i += LANES) {
                        Floats p = chosen(exponential_or_nan(load(room.score + (panel * SIDE + asks) * SIDE + i) - largest), seen_until(panel * SIDE + i, last));
                        sum += p;
                        write(share + panel * SIDE + i, chosen(p, (__mmask16)(left >> i)));
                    }
                }
                float all = sum_of(sum);
                parted[asks] = of.drops.factor / all;
                total[places[start + asks] * of.heads + head] = largest + std::log(all);
            }
            for (int64_t step = 0; step < room.steps; step++) {
                sum_rows(room.share, panels * SIDE, room.by_value + step * room.blocks * 2 * TILE, panels, room.out);
                for (int64_t asks = start; asks < end; asks++)
                    sweep(std::min(SIDE, width - step * SIDE), [&](int64_t i, int64_t n) {
                        write(said + (places[asks] * of.heads + head) * width + step * SIDE + i, read(room.out + (asks - start) * SIDE + i, n) * parted[asks - start], n);
                    });
            }
        }
}

// d_keys: of the rows' tokens, of each key head, the gradients of key and value, (tokens, key heads, 2, width)
static void attend_row_backward(const Half* given, const Rows& rows, const Attention& of, int64_t row, int64_t key_head, const Half* said, const float* total, const Half* d_said, Half* d_given,
                                float* d_keys) {
    int64_t first = rows.starts[row], length = rows.starts[row + 1] - first, before = rows.before[row], width = of.width, shared = of.heads / of.key_heads;
    int64_t stride = (of.heads + 2 * of.key_heads) * width;
    const int64_t* places = rows.places + first;
    float* d_key_head = d_keys + (first * of.key_heads + key_head) * 2 * width;
    if (before >= length) {
        for (int64_t token = 0; token < length; token++) std::memset(d_key_head + token * of.key_heads * 2 * width, 0, 8 * width);
        return;
    }
    HeadRoom& room = open_head(length, width, true);
    int64_t filled = room.blocks * SIDE, wide = room.wide;
    take_tokens(given + (of.heads + key_head) * width, stride, places, length, filled, of, true, 1.0f, wide, room.key);
    take_tokens(given + (of.heads + of.key_heads + key_head) * width, stride, places, length, filled, of, false, 1.0f, wide, room.value);
    order_all({room.key, wide, false}, filled, wide, room.by_key);
    order_all({room.value, wide, false}, filled, wide, room.by_value);
    order_all({room.key, wide, true}, wide, filled, room.key_by_width);
    std::memset(room.d_key, 0, 4 * filled * wide);
    std::memset(room.d_value, 0, 4 * filled * wide);
    for (int64_t head = key_head * shared; head < (key_head + 1) * shared; head++)
        for (int64_t from = before; from < length; from += ASKING * SIDE) {
            int64_t until = std::min(from + ASKING * SIDE, length), many = parts(until - from, SIDE), all_panels = of.causal ? parts(until, SIDE) : room.blocks;
            take_tokens(given + head * width, stride, places + from, until - from, many * SIDE, of, true, of.scale, wide, room.query);
            take_tokens(d_said + head * width, of.heads * width, places + from, until - from, many * SIDE, of, false, 1.0f, wide, room.d_said);
            order_all({room.query, wide, true}, wide, many * SIDE, room.query_by_width);
            order_all({room.d_said, wide, true}, wide, many * SIDE, room.d_said_by_width);
            for (int64_t block = 0; block < many; block++) {
                int64_t start = from + block * SIDE, end = std::min(start + SIDE, length), panels = of.causal ? parts(end, SIDE) : room.blocks;
                const Half *query = room.query + block * SIDE * wide, *d_out = room.d_said + block * SIDE * wide;
                score_block(room, query, room.by_key, panels, room.score);
                score_block(room, d_out, room.by_value, panels, room.d_share);
                for (int64_t asks = 0; asks < SIDE; asks++) {
                    Half *share = room.share + asks * panels * SIDE, *d_score = room.d_score + asks * panels * SIDE;
                    if (start + asks >= end) { std::memset(share, 0, 2 * panels * SIDE); std::memset(d_score, 0, 2 * panels * SIDE); continue; }
                    int64_t last = of.causal ? start + asks : length - 1, place = places[start + asks];
                    Floats products = {};
                    sweep(width, [&](int64_t i, int64_t n) { products += read(d_out + asks * wide + i, n) * read(said + (place * of.heads + head) * width + i, n); });
                    float pulled = sum_of(products), all = total[place * of.heads + head];
                    int32_t key = of.drops.keys ? key_of(of, place, head) : 0;
                    for (int64_t panel = 0; panel < panels; panel++) {
                        __mmask32 left = of.drops.keys ? kept_by(of.drops, key, panel * SIDE) : ~0u;
                        for (int64_t i = 0; i < SIDE; i += LANES) {
                            int64_t at_sum = (panel * SIDE + asks) * SIDE + i;
                            Floats p = chosen(exponential_or_nan(load(room.score + at_sum) - all), seen_until(panel * SIDE + i, last));
                            Floats d = load(room.d_share + at_sum), used = p;
                            if (of.drops.keys) { d = chosen(d * of.drops.factor, (__mmask16)(left >> i)); used = chosen(p * of.drops.factor, (__mmask16)(left >> i)); }
                            write(share + panel * SIDE + i, used);
                            write(d_score + panel * SIDE + i, p * (d - pulled));
                        }
                    }
                }
                for (int64_t step = 0; step < room.steps; step++) {
                    sum_rows(room.d_score, panels * SIDE, room.key_by_width + step * room.blocks * 2 * TILE, panels, room.score);
                    // the scores are not needed any more: of each query, 32 numbers at a time
                    for (int64_t asks = 0; asks < end - start; asks++) std::memcpy(room.d_share + asks * wide + step * SIDE, room.score + asks * SIDE, 4 * SIDE);
                }
                for (int64_t asks = start; asks < end; asks++) turn_head(room.d_share + (asks - start) * wide, of, places[asks], true, of.scale, -1.0f, d_given + places[asks] * stride + head * width);
                for (int64_t panel = 0; panel < panels; panel++) {
                    int64_t to = (panel * ASKING + block) * 2 * TILE;
                    order_left({room.share, panels * SIDE, true}, panel * SIDE, panels * SIDE, 0, SIDE, room.share_turned + to);
                    order_left({room.d_score, panels * SIDE, true}, panel * SIDE, panels * SIDE, 0, SIDE, room.d_score_turned + to);
                }
            }
            for (int64_t panel = 0; panel < all_panels; panel++) {
                int64_t skipped = of.causal ? std::max<int64_t>(0, (panel * SIDE - from) / SIDE) : 0;  // blocks of queries before these keys
                for (int64_t step = 0; step < room.steps; step++) {
                    auto add = [&](const Half* turned, const Half* by_width, float* sums) {
                        sum_tiles(turned + (panel * ASKING + skipped) * 2 * TILE, TILE, STEP, 2 * TILE, by_width + (step * many + skipped) * 2 * TILE, many - skipped,
                                  sums + (panel * room.steps + step) * SIDE * SIDE, true);
                    };
                    add(room.share_turned, room.d_said_by_width, room.d_value);
                    add(room.d_score_turned, room.query_by_width, room.d_key);
                }
            }
        }
    for (int64_t token = 0; token < length; token++)
        for (int which = 0; which < 2; which++)
            for (int64_t step = 0; step < room.steps; step++)
                std::memcpy(d_key_head + token * of.key_heads * 2 * width + which * width + step * SIDE,
                            (which ? room.d_value : room.d_key) + ((token / SIDE * room.steps + step) * SIDE + token % SIDE) * SIDE, 4 * std::min(SIDE, width - step * SIDE));
}
