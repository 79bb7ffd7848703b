// Batch normalisation in training, with what usually follows it: a residual added, and a rectified linear unit.
//
// Four operators of MindSpore read and write a whole activation each, and their gradients again; here a channel goes
// through all of it while it is in the processor's cache.
//
// Tensors are float32 and contiguous: x, residual, z, dz, dx (N, C, S) with S = H * W; everything else is (C).
//     mean_c, var_c over N and S of x;  y = (x - mean) * gamma / sqrt(var + eps) + beta;  z = relu(y + residual)
// A channel is the work of one thread from first to last number, so their number changes no bit.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

#include "pool.h"

// One function for every width of the processor's registers; the loader takes the widest.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define CLONES
#endif
#define INLINE __attribute__((always_inline)) inline

namespace {

constexpr int kWidth = 16;
typedef float V __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));

// A sum of many floats: in single precision for kHeld additions or those of one row of an image, then in double precision.
struct Sum {
  static constexpr int kHeld = 256;
  V lanes = {};
  int held = 0;
  double total = 0;

  INLINE void add(V v) { lanes += v; }
  INLINE void settle(int64_t added) {  // after every row
    held += int(added);
    if (held >= kHeld) flush();
  }
  INLINE void flush() {
    for (int i = 0; i < kWidth; ++i) total += lanes[i];
    lanes = V{};
    held = 0;
  }
  INLINE double value() {
    flush();
    return total;
  }
};

INLINE V load(const float *p) { return *reinterpret_cast<const V *>(p); }
INLINE void store(float *p, V v) { *reinterpret_cast<V *>(p) = v; }
template <class T> INLINE T rectified(T v) { return v < 0 ? T{} : v; }  // not-a-number stays what it is

// One channel of a tensor: N rows of S numbers, `step` apart.
struct Channel { int64_t rows, size, step; };

struct Forward {
  Channel at;
  const float *x, *residual;  // residual may be null
  float *z;
  bool relu;
  float gamma, beta, eps;
  float mean, scale;            // out: scale = 1 / sqrt(var + eps)
  double variance;              // out
};

template <bool kRelu, bool kResidual>
INLINE void normalise(const Forward &f) {
  const float slope = f.gamma * f.scale;
  for (int64_t n = 0; n < f.at.rows; ++n) {
    const float *x = f.x + n * f.at.step, *r = kResidual ? f.residual + n * f.at.step : nullptr;
    float *z = f.z + n * f.at.step;
    int64_t i = 0;
    for (; i + kWidth <= f.at.size; i += kWidth) {
      V v = (load(x + i) - f.mean) * slope + f.beta;
      if (kResidual) v += load(r + i);
      store(z + i, kRelu ? rectified(v) : v);
    }
    for (; i < f.at.size; ++i) {
      float v = (x[i] - f.mean) * slope + f.beta;
      if (kResidual) v += r[i];
      z[i] = kRelu ? rectified(v) : v;
    }
  }
}

CLONES void forward(Forward &f) {
  const double count = double(f.at.rows * f.at.size);
  Sum sum, squares;
  for (int64_t n = 0; n < f.at.rows; ++n) {
    const float *x = f.x + n * f.at.step;
    int64_t i = 0;
    for (; i + kWidth <= f.at.size; i += kWidth) sum.add(load(x + i));
    for (; i < f.at.size; ++i) sum.total += x[i];
    sum.settle(f.at.size / kWidth);
  }
  f.mean = float(sum.value() / count);
  for (int64_t n = 0; n < f.at.rows; ++n) {
    const float *x = f.x + n * f.at.step;
    int64_t i = 0;
    for (; i + kWidth <= f.at.size; i += kWidth) {
      const V v = load(x + i) - f.mean;
      squares.add(v * v);
    }
    for (; i < f.at.size; ++i) squares.total += double(x[i] - f.mean) * (x[i] - f.mean);
    squares.settle(f.at.size / kWidth);
  }
  f.variance = squares.value() / count;
  f.scale = float(1 / std::sqrt(f.variance + f.eps));
  if (f.relu) {
    f.residual ? normalise<true, true>(f) : normalise<true, false>(f);
  } else {
    f.residual ? normalise<false, true>(f) : normalise<false, false>(f);
  }
}

struct Backward {
  Channel at;
  const float *dz, *x, *z;  // z null: what was rectified follows from x, as nothing was added
  float *dx, *dresidual;    // dresidual is null without a residual
  bool relu;
  float gamma, beta, mean, scale;
  float dgamma, dbeta;  // out
};

// The gradient before the rectified linear unit.
template <bool kRelu, bool kResidual, class T>
INLINE T gate(T dz, T centred, T z, float slope, float beta) {
  if (!kRelu) return dz;
  const T y = kResidual ? z : centred * slope + beta;
  return y > 0 ? dz : T{};
}

template <bool kRelu, bool kResidual>
INLINE void differentiate(Backward &b) {
  const float slope = b.gamma * b.scale;
  Sum plain, product;
  for (int64_t n = 0; n < b.at.rows; ++n) {
    const int64_t row = n * b.at.step;
    const float *x = b.x + row, *dz = b.dz + row, *z = kResidual && kRelu ? b.z + row : b.x + row;
    float *dr = kResidual ? b.dresidual + row : nullptr;
    int64_t i = 0;
    for (; i + kWidth <= b.at.size; i += kWidth) {
      const V centred = load(x + i) - b.mean;
      const V g = gate<kRelu, kResidual>(load(dz + i), centred, load(z + i), slope, b.beta);
      if (kResidual) store(dr + i, g);
      plain.add(g);
      product.add(g * centred);
    }
    for (; i < b.at.size; ++i) {
      const float centred = x[i] - b.mean;
      const float g = gate<kRelu, kResidual>(dz[i], centred, z[i], slope, b.beta);
      if (kResidual) dr[i] = g;
      plain.total += g;
      product.total += double(g) * centred;
    }
    plain.settle(b.at.size / kWidth);
    product.settle(b.at.size / kWidth);
  }
  const double count = double(b.at.rows * b.at.size), sum = plain.value(), along = product.value() * b.scale;
  b.dbeta = float(sum);
  b.dgamma = float(along);
  const float offset = float(sum / count), tilt = float(along / count * b.scale);
  for (int64_t n = 0; n < b.at.rows; ++n) {
    const int64_t row = n * b.at.step;
    // With a residual its gradient is what the first loop gated.
    const float *x = b.x + row, *g = (kResidual ? b.dresidual : b.dz) + row;
    float *dx = b.dx + row;
    int64_t i = 0;
    for (; i + kWidth <= b.at.size; i += kWidth) {
      const V centred = load(x + i) - b.mean;
      const V v = gate<kRelu && !kResidual, false>(load(g + i), centred, centred, slope, b.beta);
      store(dx + i, (v - offset - centred * tilt) * slope);
    }
    for (; i < b.at.size; ++i) {
      const float centred = x[i] - b.mean;
      const float v = gate<kRelu && !kResidual, false>(g[i], centred, centred, slope, b.beta);
      dx[i] = (v - offset - centred * tilt) * slope;
    }
  }
}

CLONES void backward(Backward &b) {
  if (b.relu) {
    b.dresidual ? differentiate<true, true>(b) : differentiate<true, false>(b);
  } else {
    b.dresidual ? differentiate<false, true>(b) : differentiate<false, false>(b);
  }
}

// `work` for every channel, over all threads. A channel of few numbers is not worth a thread's waking.
template <class Work>
int each(const int64_t *const *shapes, const int *ndims, int inputs, const char **types, const Work &work) {
  try {
    const int64_t *shape = shapes[0];
    const auto same = [&](int i, int axes) {
      return ndims[i] == axes && std::equal(shapes[i], shapes[i] + axes, axes == 4 ? shape : shape + 1);
    };
    // Of both operators: inputs 2 (gamma or beta) has one number a channel, the seventh is as large as x.
    if (ndims[0] != 4 || !same(2, 1) || (inputs == 7 && !same(6, 4))) throw std::runtime_error("shapes do not fit");
    if (!pool) throw std::runtime_error("mslt_open was not called");
    for (int i = 0; i < inputs; ++i) {
      if (std::strcmp(types[i], "float32")) throw std::runtime_error(std::string("float32 expected, got ") + types[i]);
    }
    int64_t size = 1;
    for (int i = 2; i < 4; ++i) size *= shape[i];
    const int64_t channels = shape[1];
    const Channel at{shape[0], size, channels * size};
    constexpr int64_t kSmall = 16384;
    const int64_t numbers = shape[0] * channels * size;
    if (numbers == 0) throw std::runtime_error("no values to normalise");
    const int parts = int(std::clamp<int64_t>(numbers / kSmall, 1, std::min<int64_t>(channels, 4 * pool->threads())));
    std::lock_guard<std::mutex> guard(pool_turn);
    pool->parallel_for(parts, [&](int part, int of) {
      for (int64_t c = channels * part / of; c < channels * (part + 1) / of; ++c) work(at, c, c * size);
    });
    return 0;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "ms_longtail batch normalisation: %s\n", error.what());
    return 1;
  }
}

enum { kX, kGamma, kBeta, kMovingMean, kMovingVariance, kSettings, kResidual };

int run_forward(const int *ndims, int64_t **shapes, const char **types, float **p, bool relu, bool residual) {
  const int inputs = residual ? 7 : 6;
  float **out = p + inputs;  // z, mean, scale, new moving mean, new moving variance
  return each(shapes, ndims, inputs, types, [=](const Channel &at, int64_t c, int64_t first) {
    const float *settings = p[kSettings];  // eps, share of the old statistics
    Forward f{at, p[kX] + first, residual ? p[kResidual] + first : nullptr, out[0] + first, relu,
              p[kGamma][c], p[kBeta][c], settings[0], 0, 0, 0};
    forward(f);
    const double count = double(at.rows * at.size), old = settings[1];
    const double unbiased = f.variance * count / std::max(count - 1, 1.0);
    out[1][c] = f.mean;
    out[2][c] = f.scale;
    out[3][c] = float(old * p[kMovingMean][c] + (1 - old) * f.mean);
    out[4][c] = float(old * p[kMovingVariance][c] + (1 - old) * unbiased);
  });
}

// dz, x, gamma, beta, mean, scale[, z] -> dx, dgamma, dbeta[, dresidual]
int run_backward(const int *ndims, int64_t **shapes, const char **types, float **p, bool relu, bool residual) {
  const int inputs = residual ? 7 : 6;
  float **out = p + inputs;
  return each(shapes, ndims, inputs, types, [=](const Channel &at, int64_t c, int64_t first) {
    Backward b{at, p[0] + first, p[1] + first, residual ? p[6] + first : nullptr, out[0] + first,
               residual ? out[3] + first : nullptr, relu, p[2][c], p[3][c], p[4][c], p[5][c], 0, 0};
    backward(b);
    out[1][c] = b.dgamma;
    out[2][c] = b.dbeta;
  });
}

}  // namespace

// The operators, in the form that mindspore.ops.Custom calls: inputs, then outputs.
#define EXPORT extern "C" __attribute__((visibility("default")))
#define OPERATOR(name, relu, residual)                                                                                   \
  EXPORT int name##Forward(int, void **p, int *ndims, int64_t **s, const char **types, void *, void *) {                 \
    return run_forward(ndims, s, types, reinterpret_cast<float **>(p), relu, residual);                            \
  }                                                                                                                      \
  EXPORT int name##Backward(int, void **p, int *ndims, int64_t **s, const char **types, void *, void *) {                \
    return run_backward(ndims, s, types, reinterpret_cast<float **>(p), relu, residual);                           \
  }
OPERATOR(Norm, false, false)
OPERATOR(NormRelu, true, false)
OPERATOR(NormAdd, false, true)
OPERATOR(NormAddRelu, true, true)
