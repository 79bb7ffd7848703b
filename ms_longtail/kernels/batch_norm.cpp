// Batch normalisation in training, with what usually follows it: a residual added, and a rectified linear unit.
//
// Four operators of MindSpore read and write a whole activation each, and their gradients again; here it is read twice (from
// the processor's cache where a channel fits into it) and written once.
//
// Tensors are float32 and contiguous: x, residual, z, dz, dx (N, G, S, L) with S = H * W, that is G groups of L channels:
// L = 1 is the plain layout (N, C, H, W), 8 and 16 are the blocks that oneDNN's convolutions like. Everything else is (C).
//     mean_c, var_c over N and S of x;  y = (x - mean) * gamma / sqrt(var + eps) + beta;  z = relu(y + residual)
// The sums are cut at places that depend on the shape alone, so the number of threads changes no bit.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "operator.h"
#include "vectors.h"

namespace {

// Number i of those that are worked on at once belongs to channel i % L of its group.
struct Layout {
  int64_t images, groups, pixels;
  int lanes;
  int64_t row() const { return pixels * lanes; }  // numbers of one image and group, one after another
  int64_t start(int64_t image, int64_t group) const { return (image * groups + group) * row(); }
};

// Some images of one group: what one thread does at a time.
struct Part { int64_t group, first, last; };

// Of one channel: the mean, and the sum of squared distances from it.
struct Moments {
  double count = 0, mean = 0, squares = 0;

  // Chan, Golub, LeVeque, "Algorithms for Computing the Sample Variance", 1983, eq. 2.1.
  INLINE void join(const Moments &other) {
    const double all = count + other.count, apart = other.mean - mean;
    squares += other.squares + apart * apart * (count * other.count / all);
    mean += apart * (other.count / all);
    count = all;
  }
};

// For each of kWidth numbers that are worked on at once: what the channel it belongs to has.
struct Constants { float mean[kWidth], slope[kWidth], beta[kWidth], offset[kWidth], tilt[kWidth]; };

// ------------------------------------------------------------------------------------------------------------ forward

struct Forward {
  Layout at;
  const float *x, *residual;  // residual may be null
  float *z;
  bool relu;
};

// In pieces that stay in the processor's first cache: their mean, then the distances from it, which single precision holds.
template <int kLanes>
INLINE void measure(const Forward &f, const Part &part, Moments *moments) {
  constexpr int64_t kPiece = 256 * kWidth;
  for (int64_t n = part.first; n < part.last; ++n) {
    const float *row = f.x + f.at.start(n, part.group);
    for (int64_t begin = 0; begin < f.at.row(); begin += kPiece) {
      const float *x = row + begin;
      const int64_t size = std::min(kPiece, f.at.row() - begin), whole = size / kWidth * kWidth;
      const float count = float(size / kLanes);
      float sums[kWidth], means[kWidth], firsts[kWidth], seconds[kWidth];
      V sum = {}, first = {}, second = {};
      for (int64_t i = 0; i < whole; i += kWidth) sum = sum + load(x + i);
      store(sums, sum);
      for (int64_t i = whole; i < size; ++i) sums[i - whole] += x[i];
      for (int c = 0; c < kLanes; ++c) {
        float total = 0;
        for (int l = c; l < kWidth; l += kLanes) total += sums[l];
        for (int l = c; l < kWidth; l += kLanes) means[l] = total / count;
      }
      const V mean = load(means);
      for (int64_t i = 0; i < whole; i += kWidth) {
        const V apart = load(x + i) - mean;
        first = first + apart;
        second = second + apart * apart;
      }
      store(firsts, first);
      store(seconds, second);
      for (int64_t i = whole; i < size; ++i) {
        const float apart = x[i] - means[i - whole];
        firsts[i - whole] += apart;
        seconds[i - whole] += apart * apart;
      }
      for (int c = 0; c < kLanes; ++c) {
        double off = 0, squares = 0;
        for (int l = c; l < kWidth; l += kLanes) off += firsts[l], squares += seconds[l];
        moments[c].join({count, means[c] + off / count, squares - off * off / count});
      }
    }
  }
}

template <bool kRelu, bool kResidual>
INLINE void normalise(const Forward &f, const Part &part, const Constants &k) {
  const V mean = load(k.mean), slope = load(k.slope), beta = load(k.beta);
  for (int64_t n = part.first; n < part.last; ++n) {
    const int64_t start = f.at.start(n, part.group), size = f.at.row();
    const float *x = f.x + start, *r = kResidual ? f.residual + start : nullptr;
    float *z = f.z + start;
    int64_t i = 0;
    for (; i + kWidth <= size; i += kWidth) {
      V v = (load(x + i) - mean) * slope + beta;
      if (kResidual) v = v + load(r + i);
      store(z + i, kRelu ? rectified(v) : v);
    }
    for (int l = 0; i < size; ++i, ++l) {
      float v = (x[i] - k.mean[l]) * k.slope[l] + k.beta[l];
      if (kResidual) v += r[i];
      z[i] = kRelu ? rectified(v) : v;
    }
  }
}

CLONES void measure(const Forward &f, const Part &part, Moments *moments) {
  f.at.lanes == 1 ? measure<1>(f, part, moments) : f.at.lanes == 8 ? measure<8>(f, part, moments) : measure<16>(f, part, moments);
}

CLONES void apply(const Forward &f, const Part &part, const Constants &k) {
  if (f.relu) {
    f.residual ? normalise<true, true>(f, part, k) : normalise<true, false>(f, part, k);
  } else {
    f.residual ? normalise<false, true>(f, part, k) : normalise<false, false>(f, part, k);
  }
}

// ----------------------------------------------------------------------------------------------------------- backward

struct Backward {
  Layout at;
  const float *dz, *x, *z;  // z null: what was rectified follows from x, as nothing was added
  float *dx, *dresidual;    // dresidual is null without a residual
  bool relu;
};

// Of one channel, g = the gradient before the rectified linear unit: the sums of g and of g (x - mean).
struct Sums { double plain = 0, product = 0; };

template <bool kRelu, bool kResidual, class T>
INLINE T gate(T dz, T centred, T z, T slope, T beta) {
  if (!kRelu) return dz;
  return where_positive(kResidual ? z : centred * slope + beta, dz);
}

INLINE void add_to(double *total, V v) {
  float each[kWidth];
  store(each, v);
  for (int l = 0; l < kWidth; ++l) total[l] += each[l];
}

template <bool kRelu, bool kResidual>
INLINE void add_up(const Backward &b, const Part &part, const Constants &k, Sums *sums) {
  constexpr int kHeld = 256;  // additions in single precision, less than twice as many; then double takes over
  const V mean = load(k.mean), slope = load(k.slope), beta = load(k.beta);
  double plains[kWidth] = {}, products[kWidth] = {};
  V plain = {}, product = {};
  int64_t held = 0;
  for (int64_t n = part.first; n < part.last; ++n) {
    const int64_t start = b.at.start(n, part.group), size = b.at.row(), whole = size / kWidth * kWidth;
    const float *x = b.x + start, *dz = b.dz + start, *z = kResidual && kRelu ? b.z + start : x;
    float *dr = kResidual ? b.dresidual + start : nullptr;
    for (int64_t begin = 0; begin < whole; begin += kHeld * kWidth) {
      const int64_t end = std::min(whole, begin + kHeld * kWidth);
      for (int64_t i = begin; i < end; i += kWidth) {
        const V centred = load(x + i) - mean;
        const V g = gate<kRelu, kResidual>(load(dz + i), centred, load(z + i), slope, beta);
        if (kResidual) store(dr + i, g);
        plain = plain + g;
        product = product + g * centred;
      }
      held += (end - begin) / kWidth;
      if (held < kHeld && n + 1 < part.last) continue;
      add_to(plains, plain);
      add_to(products, product);
      plain = product = V{};
      held = 0;
    }
    for (int64_t i = whole; i < size; ++i) {
      const int64_t l = i - whole;
      const float centred = x[i] - k.mean[l];
      const float g = gate<kRelu, kResidual>(dz[i], centred, z[i], k.slope[l], k.beta[l]);
      if (kResidual) dr[i] = g;
      plains[l] += g;
      products[l] += double(g) * centred;
    }
  }
  for (int l = 0; l < kWidth; ++l) {
    sums[l % b.at.lanes].plain += plains[l];
    sums[l % b.at.lanes].product += products[l];
  }
}

template <bool kRelu, bool kResidual>
INLINE void differentiate(const Backward &b, const Part &part, const Constants &k) {
  const V mean = load(k.mean), slope = load(k.slope), beta = load(k.beta), offset = load(k.offset), tilt = load(k.tilt);
  for (int64_t n = part.first; n < part.last; ++n) {
    const int64_t start = b.at.start(n, part.group), size = b.at.row();
    // With a residual its gradient is what the sums were made of.
    const float *x = b.x + start, *g = (kResidual ? b.dresidual : b.dz) + start;
    float *dx = b.dx + start;
    int64_t i = 0;
    for (; i + kWidth <= size; i += kWidth) {
      const V centred = load(x + i) - mean;
      const V v = gate<kRelu && !kResidual, false>(load(g + i), centred, centred, slope, beta);
      store(dx + i, (v - offset - centred * tilt) * slope);
    }
    for (int l = 0; i < size; ++i, ++l) {
      const float centred = x[i] - k.mean[l];
      const float v = gate<kRelu && !kResidual, false>(g[i], centred, centred, k.slope[l], k.beta[l]);
      dx[i] = (v - k.offset[l] - centred * k.tilt[l]) * k.slope[l];
    }
  }
}

CLONES void measure(const Backward &b, const Part &part, const Constants &k, Sums *sums) {
  if (b.relu) {
    b.dresidual ? add_up<true, true>(b, part, k, sums) : add_up<true, false>(b, part, k, sums);
  } else {
    b.dresidual ? add_up<false, true>(b, part, k, sums) : add_up<false, false>(b, part, k, sums);
  }
}

CLONES void apply(const Backward &b, const Part &part, const Constants &k) {
  if (b.relu) {
    b.dresidual ? differentiate<true, true>(b, part, k) : differentiate<true, false>(b, part, k);
  } else {
    b.dresidual ? differentiate<false, true>(b, part, k) : differentiate<false, false>(b, part, k);
  }
}

// ---------------------------------------------------------------------------------------------------------- operators

// measure(part, partial sums), settle(group, the parts' sums) and apply(part) in this order, for all parts of all groups.
// A group that fits into a processor's cache is one part, and goes through all three before the next.
template <class Partial, class Measure, class Settle, class Apply>
void for_all(const Layout &at, const Measure &measure, const Settle &settle, const Apply &apply) {
  constexpr int64_t kPart = 65536;   // numbers in a part: less than twice as many, but an image is never cut
  constexpr int64_t kSmall = 16384;  // too few to be worth a thread's waking
  const int64_t cuts = std::clamp<int64_t>(at.images * at.row() / kPart, 1, at.images), count = cuts * at.groups;
  std::vector<Partial> partial(count * at.lanes);
  const auto spread = [&](const auto &work) {
    const int64_t most = std::max<int64_t>(at.images * at.groups * at.row() / kSmall, 1);
    pool->parallel_for(int(std::min({count, most, int64_t(8) * pool->threads()})), [&](int share, int of) {
      for (int64_t i = count * share / of; i < count * (share + 1) / of; ++i) {
        const int64_t cut = i % cuts;
        work(Part{i / cuts, at.images * cut / cuts, at.images * (cut + 1) / cuts}, &partial[i * at.lanes]);
      }
    });
  };
  std::lock_guard<std::mutex> guard(pool_turn);
  if (cuts == 1) {
    spread([&](const Part &part, Partial *sums) {
      measure(part, sums);
      settle(part.group, sums, cuts);
      apply(part);
    });
  } else {
    spread(measure);
    for (int64_t g = 0; g < at.groups; ++g) settle(g, &partial[g * cuts * at.lanes], cuts);
    spread([&](const Part &part, Partial *) { apply(part); });
  }
}

Layout checked(const int64_t *const *shapes, const int *ndims, int inputs, const char **types) {
  const int64_t *shape = shapes[0];
  const int axes = ndims[0];
  if (axes != 4 && axes != 5) throw std::runtime_error("shapes do not fit");
  const int64_t lanes = axes == 5 ? shape[4] : 1, channels = shape[1] * lanes;
  const auto same = [&](int i) { return ndims[i] == axes && std::equal(shapes[i], shapes[i] + axes, shape); };
  // Of both operators: input 2 (gamma or beta) has one number a channel, the seventh is as large as x.
  if ((lanes != 1 && lanes != 8 && lanes != 16) || ndims[2] != 1 || shapes[2][0] != channels || (inputs == 7 && !same(6))) {
    throw std::runtime_error("shapes do not fit");
  }
  for (int i = 0; i < inputs; ++i) expect("float32", types[i]);
  const Layout at{shape[0], shape[1], shape[2] * shape[3], int(lanes)};
  if (at.images * at.groups * at.row() == 0) throw std::runtime_error("no values to normalise");
  return at;
}

enum { kX, kGamma, kBeta, kMovingMean, kMovingVariance, kSettings, kResidual };

int run_forward(const int *ndims, int64_t **shapes, const char **types, float **p, bool relu, bool residual) {
  return guarded("batch normalisation", [&] {
    const int inputs = residual ? 7 : 6;
    const Layout at = checked(shapes, ndims, inputs, types);
    float **out = p + inputs;  // z, mean, scale = 1 / sqrt(var + eps), new moving mean, new moving variance
    const Forward f{at, p[kX], residual ? p[kResidual] : nullptr, out[0], relu};
    const double eps = p[kSettings][0], old = p[kSettings][1];
    std::vector<Constants> constants(at.groups);
    const auto settle = [&](int64_t group, Moments *moments, int64_t cuts) {
      for (int l = 0; l < at.lanes; ++l) {
        Moments &all = moments[l];
        for (int64_t cut = 1; cut < cuts; ++cut) all.join(moments[cut * at.lanes + l]);
        const int64_t c = group * at.lanes + l;
        out[1][c] = float(all.mean);
        out[2][c] = float(1 / std::sqrt(all.squares / all.count + eps));
        out[3][c] = float(old * p[kMovingMean][c] + (1 - old) * all.mean);
        out[4][c] = float(old * p[kMovingVariance][c] + (1 - old) * all.squares / std::max(all.count - 1, 1.0));
      }
      for (int i = 0; i < kWidth; ++i) {
        const int64_t c = group * at.lanes + i % at.lanes;
        constants[group].mean[i] = out[1][c];
        constants[group].slope[i] = p[kGamma][c] * out[2][c];
        constants[group].beta[i] = p[kBeta][c];
      }
    };
    for_all<Moments>(at, [&](const Part &part, Moments *moments) { measure(f, part, moments); }, settle,
                     [&](const Part &part) { apply(f, part, constants[part.group]); });
  });
}

// dz, x, gamma, beta, mean, scale[, z] -> dx, dgamma, dbeta[, dresidual]
int run_backward(const int *ndims, int64_t **shapes, const char **types, float **p, bool relu, bool residual) {
  return guarded("batch normalisation", [&] {
    const int inputs = residual ? 7 : 6;
    const Layout at = checked(shapes, ndims, inputs, types);
    float **out = p + inputs;
    const Backward b{at, p[0], p[1], residual ? p[6] : nullptr, out[0], residual ? out[3] : nullptr, relu};
    std::vector<Constants> constants(at.groups);
    for (int64_t group = 0; group < at.groups; ++group) {
      for (int i = 0; i < kWidth; ++i) {
        const int64_t c = group * at.lanes + i % at.lanes;
        constants[group].mean[i] = p[4][c];
        constants[group].slope[i] = p[2][c] * p[5][c];
        constants[group].beta[i] = p[3][c];
      }
    }
    const double count = double(at.images * at.pixels);
    const auto settle = [&](int64_t group, Sums *sums, int64_t cuts) {
      for (int i = 0; i < at.lanes; ++i) {
        Sums &all = sums[i];
        for (int64_t cut = 1; cut < cuts; ++cut) {
          all.plain += sums[cut * at.lanes + i].plain;
          all.product += sums[cut * at.lanes + i].product;
        }
        const int64_t c = group * at.lanes + i;
        const double scale = p[5][c];
        out[1][c] = float(all.product * scale);
        out[2][c] = float(all.plain);
        for (int l = i; l < kWidth; l += at.lanes) {
          constants[group].offset[l] = float(all.plain / count);
          constants[group].tilt[l] = float(all.product * scale / count * scale);
        }
      }
    };
    for_all<Sums>(at, [&](const Part &part, Sums *sums) { measure(b, part, constants[part.group], sums); }, settle,
                  [&](const Part &part) { apply(b, part, constants[part.group]); });
  });
}

}  // namespace

#define OPERATOR(name, relu, residual)                                              \
  EXPORT int name##Forward(ARGUMENTS) {                                              \
    (void)count;                                                                     \
    return run_forward(n, s, types, reinterpret_cast<float **>(p), relu, residual);  \
  }                                                                                  \
  EXPORT int name##Backward(ARGUMENTS) {                                             \
    (void)count;                                                                     \
    return run_backward(n, s, types, reinterpret_cast<float **>(p), relu, residual); \
  }
OPERATOR(Norm, false, false)
OPERATOR(NormRelu, true, false)
OPERATOR(NormAdd, false, true)
OPERATOR(NormAddRelu, true, true)
