// Dropout as `models.dropout` draws it: which numbers are kept follows from a key of their row and from their place. Other headers include it.
#pragma once
#include "bf16.h"

struct KeyedDropout {
    const int32_t *keys, *columns;  // of each row, none where nothing is dropped; of pairs of places, as many as fill whole words of 32 places
    float factor;                   // what is kept is multiplied by
    int32_t least;                  // the smallest draw that is kept
};

// Which of 32 numbers from a place on are kept
static inline __mmask32 kept_by(const KeyedDropout& drops, int32_t key, int64_t place) {
    __m512i word = _mm512_xor_si512(_mm512_set1_epi32(key), _mm512_loadu_si512(drops.columns + place / 2));
    word = _mm512_mullo_epi32(word, _mm512_set1_epi32(0x7FEB352D));
    word = _mm512_xor_si512(word, _mm512_srli_epi32(word, 15));
    word = _mm512_mullo_epi32(word, _mm512_set1_epi32((int32_t)0x846CA68B));
    word = _mm512_xor_si512(word, _mm512_srli_epi32(word, 16));
    return _mm512_cmpge_epi16_mask(word, _mm512_set1_epi16((int16_t)drops.least));
}

// each(place, count, which are kept), as `sweep` goes through a row
template <class Each>
static inline void sweep_kept(const KeyedDropout& drops, int64_t row, int64_t width, Each each) {
    for (int64_t i = 0; i < width; i += 2 * LANES) {
        __mmask32 kept = drops.keys ? kept_by(drops, drops.keys[row], i) : ~0u;
        each(i, std::min<int64_t>(LANES, width - i), (__mmask16)kept);
        if (i + LANES < width) each(i + LANES, std::min<int64_t>(LANES, width - i - LANES), (__mmask16)(kept >> LANES));
    }
}
