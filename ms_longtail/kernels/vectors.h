// Sixteen floats at once, for any processor.
#pragma once

// One function for every width of the processor's registers; the loader takes the widest.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define CLONES
#endif
#define INLINE __attribute__((always_inline)) inline
#define INLINE_LAMBDA __attribute__((always_inline))

namespace {

constexpr int kWidth = 16;  // numbers that are worked on at once

// In two halves: GCC sends a vector wider than the processor's registers through memory with every operation, which took
// four times as long on AVX2.
typedef float Half __attribute__((vector_size(2 * kWidth), aligned(4), may_alias));
struct V { Half low, high; };
INLINE V operator+(V a, V b) { return {a.low + b.low, a.high + b.high}; }
INLINE V operator-(V a, V b) { return {a.low - b.low, a.high - b.high}; }
INLINE V operator*(V a, V b) { return {a.low * b.low, a.high * b.high}; }
INLINE Half half(const float *p) { return *reinterpret_cast<const Half *>(p); }
INLINE void put(float *p, Half v) { *reinterpret_cast<Half *>(p) = v; }
INLINE V load(const float *p) { return {half(p), half(p + kWidth / 2)}; }
INLINE void store(float *p, V v) {
  put(p, v.low);
  put(p + kWidth / 2, v.high);
}

// Not-a-number stays what it is.
INLINE float rectified(float v) { return v < 0 ? 0 : v; }
INLINE Half rectified(Half v) { return v < 0 ? Half{} : v; }
INLINE Half larger(Half a, Half b) { return (b > a) | (b != b) ? b : a; }
INLINE V rectified(V v) { return {rectified(v.low), rectified(v.high)}; }
// g where y is above 0, else 0.
INLINE float where_positive(float y, float g) { return y > 0 ? g : 0; }
INLINE Half where_positive(Half y, Half g) { return y > 0 ? g : Half{}; }
INLINE V where_positive(V y, V g) { return {where_positive(y.low, g.low), where_positive(y.high, g.high)}; }

}  // namespace
