// The product of 32 rows on AMX: tiles of 16 rows x 16 words, where one instruction adds the product of two of them to a third.
// The words are those of the other bf16 engine, A read by rows and B by panels; sums pass through memory, where the steps after a
// product find them.

// Tiles 0 to 3 are sums, 4 and 5 of A, 6 and 7 of B.
#if defined(KERNEL_EMULATED)

// The same without the instructions (Intel SDM, TDPBF16PS): subnormal numbers count as zero; the products of the low and of the high
// numbers of words are summed apart, then together, then onto the tile.
typedef struct {
    float number[16][16];
} matrix_tile;
static _Thread_local matrix_tile matrix_tiles[8];

static void load_matrix_tile(int tile, const void *from, int64_t stride) {
    for (int r = 0; r < 16; r++) memcpy(matrix_tiles[tile].number[r], (const char *)from + r * stride, 64);
}
static void store_matrix_tile(int tile, void *to, int64_t stride) {
    for (int r = 0; r < 16; r++) memcpy((char *)to + r * stride, matrix_tiles[tile].number[r], 64);
}
static void multiply_matrix_tiles(int sum, int a, int b) {
    for (int r = 0; r < 16; r++) {
        vector low = {0}, high = {0};
        for (int k = 0; k < 16; k++) {
            word x;
            memcpy(&x, &matrix_tiles[a].number[r][k], sizeof x);
            word_vector y;
            memcpy(&y, matrix_tiles[b].number[k], sizeof y);
            low = multiply_add(all_words(x & 0xffffu), y, low);
            high = multiply_add(all_words(x & 0xffff0000u), y, high);
        }
        vector to;
        memcpy(&to, matrix_tiles[sum].number[r], sizeof to);
        to = without_subnormals(to + without_subnormals(low + high));
        memcpy(matrix_tiles[sum].number[r], &to, sizeof to);
    }
}
#define CLEAR_TILE(tile) memset(matrix_tiles + (tile), 0, sizeof(matrix_tile))
#define LOAD_TILE(tile, from, stride) load_matrix_tile(tile, from, stride)
#define STORE_TILE(tile, to, stride) store_matrix_tile(tile, to, stride)
#define MULTIPLY_TILES(sum, a, b) multiply_matrix_tiles(sum, a, b)
static void open_products(void) {}
static void close_products(void) {}

#else

#define CLEAR_TILE(tile) _tile_zero(tile)
#define LOAD_TILE(tile, from, stride) _tile_loadd(tile, from, stride)
#define STORE_TILE(tile, to, stride) _tile_stored(tile, to, stride)
#define MULTIPLY_TILES(sum, a, b) _tile_dpbf16ps(sum, a, b)

// The shape of the tiles belongs to a thread: a unit sets it and leaves the processor without tile state, which would else be saved at
// every switch of threads.
static void open_products(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes_of_a_row[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) shape.bytes_of_a_row[tile] = 64, shape.rows[tile] = 16;
    _tile_loadconfig(&shape);
}
static void close_products(void) { _tile_release(); }

#endif

// MARK: products

// One step: 32 x 32 sums += 32 rows x 16 words of A times 16 x 32 words of B. Pitches in bytes.
INLINE void multiply_step(const word *a, int64_t a_pitch, const word *b, int64_t b_pitch) {
    LOAD_TILE(4, a, a_pitch);
    LOAD_TILE(6, b, b_pitch);
    LOAD_TILE(7, b + LANES, b_pitch);
    MULTIPLY_TILES(0, 4, 6);
    LOAD_TILE(5, (const word *)((const char *)a + 16 * a_pitch), a_pitch);
    MULTIPLY_TILES(1, 4, 7);
    MULTIPLY_TILES(2, 5, 6);
    MULTIPLY_TILES(3, 5, 7);
}
INLINE void clear_sums(void) {
    CLEAR_TILE(0);
    CLEAR_TILE(1);
    CLEAR_TILE(2);
    CLEAR_TILE(3);
}
INLINE void load_sums(const real *from, int64_t pitch) {
    const int64_t bytes = pitch * (int64_t)sizeof(real);
    LOAD_TILE(0, from, bytes);
    LOAD_TILE(1, from + LANES, bytes);
    LOAD_TILE(2, from + 16 * pitch, bytes);
    LOAD_TILE(3, from + 16 * pitch + LANES, bytes);
}
INLINE void store_sums(real *to, int64_t pitch) {
    const int64_t bytes = pitch * (int64_t)sizeof(real);
    STORE_TILE(0, to, bytes);
    STORE_TILE(1, to + LANES, bytes);
    STORE_TILE(2, to + 16 * pitch, bytes);
    STORE_TILE(3, to + 16 * pitch + LANES, bytes);
}

// acc = A (32 rows x depth words) B (depth words x width vectors); A is read by rows, `depth` a multiple of 16. `pitch` is the
// vectors of a panel row, at least `width` up to an even number.
INLINE void multiply_tile(const int width, const word *a, int64_t row_stride, int64_t depth_stride, const word *b,
                          const int pitch, int64_t depth, vector acc[ROW_TILE][TILE_VECTORS]) {
    const int64_t a_pitch = row_stride * (int64_t)sizeof(word), b_pitch = pitch * LANES * (int64_t)sizeof(word);
    for (int c = 0; c < width; c += 2) {
        clear_sums();
        for (int64_t t = 0; t < depth; t += 16) multiply_step(a + t, a_pitch, b + (t * pitch + c) * LANES, b_pitch);
        store_sums((real *)&acc[0][c], PANEL);
    }
}

// C += A B, likewise: the sums go on in the tiles, which read and write C.
INLINE void add_tile(const int width, real *c, int64_t c_pitch, const word *a, int64_t row_stride, int64_t depth_stride,
                     const word *b, const int pitch, int64_t depth) {
    const int64_t a_pitch = row_stride * (int64_t)sizeof(word), b_pitch = pitch * LANES * (int64_t)sizeof(word);
    for (int i = 0; i < width; i += 2) {
        load_sums(c + i * LANES, c_pitch);
        for (int64_t t = 0; t < depth; t += 16) multiply_step(a + t, a_pitch, b + (t * pitch + i) * LANES, b_pitch);
        store_sums(c + i * LANES, c_pitch);
    }
}

// What the tiles can do at most, as chains of products that do not wait for each other. Not of zeros, which they multiply faster
// (16 cycles a product of two tiles in place of 19).
static int64_t multiply_adds(int64_t rounds) {
    open_products();
    word numbers[16 * 16];
    for (int i = 0; i < 16 * 16; i++) numbers[i] = 0xbf803f80u;   // (1, -1)
    CLEAR_TILE(0);
    CLEAR_TILE(1);
    CLEAR_TILE(2);
    CLEAR_TILE(3);
    LOAD_TILE(4, numbers, 64);
    LOAD_TILE(6, numbers, 64);
    for (int64_t round = 0; round < rounds; round++) {
        MULTIPLY_TILES(0, 4, 6);
        MULTIPLY_TILES(1, 4, 6);
        MULTIPLY_TILES(2, 4, 6);
        MULTIPLY_TILES(3, 4, 6);
    }
    close_products();
    return rounds * 4 * 16 * 16 * 32 * 2;
}
