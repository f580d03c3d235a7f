// The product of 32 rows on AMX: tiles of 16 rows x 16 words, where one instruction adds the product of two of them to a third.
// The words are those of the other bf16 engine, A read by rows and B by panels; sums pass through memory, where the steps after a
// product find them like those of a register tile.

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

// acc = A (32 rows x depth words) B (depth words x width vectors); A is read by rows, `depth` a multiple of 16. `pitch` is the
// vectors of a panel row, at least `width` up to an even number.
INLINE void multiply_tile(const int width, const word *a, int64_t row_stride, int64_t depth_stride, const word *b,
                          const int pitch, int64_t depth, vector acc[ROW_TILE][TILE_VECTORS]) {
    const int64_t a_pitch = row_stride * (int64_t)sizeof(word), b_pitch = pitch * LANES * (int64_t)sizeof(word);
    for (int c = 0; c < width; c += 2) {
        CLEAR_TILE(0);
        CLEAR_TILE(1);
        CLEAR_TILE(2);
        CLEAR_TILE(3);
        for (int64_t t = 0; t < depth; t += 16) {
            const word *from = b + (t * pitch + c) * LANES;
            LOAD_TILE(4, a + t, a_pitch);
            LOAD_TILE(6, from, b_pitch);
            LOAD_TILE(7, from + LANES, b_pitch);
            MULTIPLY_TILES(0, 4, 6);
            LOAD_TILE(5, a + 16 * row_stride + t, a_pitch);
            MULTIPLY_TILES(1, 4, 7);
            MULTIPLY_TILES(2, 5, 6);
            MULTIPLY_TILES(3, 5, 7);
        }
        STORE_TILE(0, &acc[0][c], sizeof acc[0]);
        STORE_TILE(1, &acc[0][c + 1], sizeof acc[0]);
        STORE_TILE(2, &acc[16][c], sizeof acc[0]);
        STORE_TILE(3, &acc[16][c + 1], sizeof acc[0]);
    }
}

// What the tiles can do at most, as chains of products that do not wait for each other.
static int64_t multiply_adds(int64_t rounds) {
    open_products();
    static const word numbers[16 * 16] = {0};
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
