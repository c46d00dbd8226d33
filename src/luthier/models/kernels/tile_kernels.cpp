// What a transformer's block computes on matrix tiles besides its large products; models/kernels/tile_kernels.py compiles and calls it.
#include "encoder_passes.h"
#include "tile_attention.h"
#include <sys/syscall.h>
#include <unistd.h>

extern "C" {

// Ask Linux for the tiles' registers, once for a process (ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA); 0 where it gives them
int luthier_open_tiles() { return (int)syscall(SYS_arch_prctl, 0x1023, 18); }

void luthier_attention(const Half* given, const Rows* rows, const Attention* of, Half* said, float* total, int threads) {
    #pragma omp parallel num_threads(threads) if (threads > 1)
    {
        open_tiles();
        #pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < rows->rows * of->key_heads; task++) attend_row(given, *rows, *of, task / of->key_heads, task % of->key_heads, said, total);
        _tile_release();
    }
}

void luthier_attention_backward(const Half* given, const Rows* rows, const Attention* of, const Half* said, const float* total, const Half* d_said, Half* d_given, int threads) {
    static thread_local Room<float> room;
    int64_t width = of->width, stride = (of->heads + 2 * of->key_heads) * width;
    float* d_keys = room.of(rows->starts[rows->rows] * of->key_heads * 2 * width);
    #pragma omp parallel num_threads(threads) if (threads > 1)
    {
        open_tiles();
        #pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < rows->rows * of->key_heads; task++)
            attend_row_backward(given, *rows, *of, task / of->key_heads, task % of->key_heads, said, total, d_said, d_given, d_keys);
        _tile_release();
        Room<float> sums;
        float* sum = sums.of(2 * width);
        #pragma omp for schedule(static)
        for (int64_t token = 0; token < rows->tokens; token++)
            for (int64_t kept = 0; kept < of->key_heads; kept++) {
                std::fill_n(sum, 2 * width, 0.0f);
                for (int64_t i = rows->meetings[token]; i < rows->meetings[token + 1]; i++) {
                    const float* part = d_keys + (rows->met[i] * of->key_heads + kept) * 2 * width;
                    for (int64_t place = 0; place < 2 * width; place++) sum[place] += part[place];
                }
                Half* to = d_given + token * stride + (of->heads + kept) * width;
                turn_head(sum, *of, token, true, 1.0f, -1.0f, to);
                turn_head(sum + width, *of, token, false, 1.0f, 1.0f, to + of->key_heads * width);
            }
    }
}

// (rows, columns) → (columns, rows)
void luthier_transpose(const Half* from, int64_t stride, Half* to, int64_t rows, int64_t columns, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t column = 0; column < columns; column += SIDE)
        for (int64_t row = 0; row < rows; row += STEP) {
            alignas(64) Half tiles[2 * TILE];
            order_left({from, stride, true}, column, columns, row, rows, tiles);
            __mmask32 seen = rows - row >= STEP ? ~0u : (1u << (rows - row)) - 1;
            for (int64_t i = 0; i < std::min(SIDE, columns - column); i++) _mm512_mask_storeu_epi16(to + (column + i) * rows + row, seen, _mm512_load_si512(tiles + i * STEP));
        }
}
}
