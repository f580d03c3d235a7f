// What benchmarks and tests ask of a kernel set.

static void exponentials(const void *from, void *to, int64_t count) {
    const real *x = from;
    real *y = to;
    for (int64_t i = 0; i < count; i += LANES) {
        vector in = {0};
        const size_t bytes = sizeof(real) * (size_t)smaller(LANES, count - i);
        memcpy(&in, x + i, bytes);
        const vector out = exp2_weight(in);
        memcpy(y + i, &out, bytes);
    }
}
