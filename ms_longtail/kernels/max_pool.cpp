// The maximum over windows of an activation in blocks of channels: x (N, G, H, W, L) -> z (N, G, OH, OW, L), float32.
//
// settings is int64: kernel, stride, padding. What lies outside the image takes no part. Of several equal numbers the first
// one of a window, row by row, has the gradient.

#include <algorithm>
#include <cstdint>

#include "operator.h"
#include "vectors.h"

namespace {

struct Windows {
  int64_t height, width, out_height, out_width, lanes;
  const int64_t *settings;

  INLINE void span(int64_t i, int64_t size, int64_t &first, int64_t &last) const {
    const int64_t begin = i * settings[1] - settings[2];
    first = std::max<int64_t>(begin, 0);
    last = std::min(begin + settings[0], size);
  }

  // work(where the result is, first and last row, first and last column) for every window of eight channels at a time.
  template <class Work>
  INLINE void each(const Work &work) const {
    for (int64_t i = 0; i < out_height; ++i) {
      int64_t top, bottom, left, right;
      span(i, height, top, bottom);
      for (int64_t j = 0; j < out_width; ++j) {
        span(j, width, left, right);
        for (int64_t l = 0; l < lanes; l += kWidth / 2) work((i * out_width + j) * lanes + l, l, top, bottom, left, right);
      }
    }
  }
};

CLONES void forward(const Windows &w, const float *x, float *z) {
  w.each([&](int64_t out, int64_t l, int64_t top, int64_t bottom, int64_t left, int64_t right) INLINE_LAMBDA {
    Half most = half(x + (top * w.width + left) * w.lanes + l);
    for (int64_t r = top; r < bottom; ++r) {
      for (int64_t c = left; c < right; ++c) most = larger(most, half(x + (r * w.width + c) * w.lanes + l));
    }
    put(z + out, most);
  });
}

CLONES void backward(const Windows &w, const float *dz, const float *x, const float *z, float *dx) {
  std::fill(dx, dx + w.height * w.width * w.lanes, 0.0f);
  w.each([&](int64_t out, int64_t l, int64_t top, int64_t bottom, int64_t left, int64_t right) INLINE_LAMBDA {
    const Half most = half(z + out);
    Half rest = half(dz + out);  // what no number of the window has taken yet
    for (int64_t r = top; r < bottom; ++r) {
      for (int64_t c = left; c < right; ++c) {
        const int64_t at = (r * w.width + c) * w.lanes + l;
        const auto taken = half(x + at) == most;
        put(dx + at, half(dx + at) + (taken ? rest : Half{}));
        rest = taken ? Half{} : rest;
      }
    }
  });
}

// `work(windows, numbers of x before, numbers of z before)` for every image and group.
template <class Work>
void spread(const int64_t *x, const int64_t *z, const void *settings, const Work &work) {
  const int64_t *k = static_cast<const int64_t *>(settings);
  const int64_t count = x[0] * x[1];
  if (x[4] % (kWidth / 2) || z[0] != x[0] || z[1] != x[1] || z[4] != x[4]) throw std::runtime_error("shapes do not fit");
  for (int i = 2; i < 4; ++i) {
    if (k[2] >= k[0] || (z[i] - 1) * k[1] + k[0] > x[i] + 2 * k[2]) throw std::runtime_error("a window outside the image");
  }
  const Windows windows{x[2], x[3], z[2], z[3], x[4], k};
  std::lock_guard<std::mutex> guard(pool_turn);
  pool->parallel_for(int(std::min<int64_t>(count, 8 * pool->threads())), [&](int share, int of) {
    for (int64_t i = count * share / of; i < count * (share + 1) / of; ++i) {
      work(windows, i * x[2] * x[3] * x[4], i * z[2] * z[3] * z[4]);
    }
  });
}

}  // namespace

EXPORT int MaxPoolForward(ARGUMENTS) {  // x, settings -> z
  return guarded("maximum", [&] {
    if (count != 3 || n[0] != 5 || n[2] != 5) throw std::runtime_error("shapes do not fit");
    expect("float32", types[0]);
    expect("int64", types[1]);
    const float *x = static_cast<float *>(p[0]);
    float *z = static_cast<float *>(p[2]);
    spread(s[0], s[2], p[1], [&](const Windows &w, int64_t in, int64_t out) { forward(w, x + in, z + out); });
  });
}

EXPORT int MaxPoolBackward(ARGUMENTS) {  // dz, x, z, settings -> dx
  return guarded("maximum", [&] {
    if (count != 5 || n[0] != 5 || n[1] != 5 || n[2] != 5 || n[4] != 5) throw std::runtime_error("shapes do not fit");
    for (int i = 0; i < 3; ++i) expect("float32", types[i]);
    expect("int64", types[3]);
    const float *dz = static_cast<float *>(p[0]), *x = static_cast<float *>(p[1]), *z = static_cast<float *>(p[2]);
    float *dx = static_cast<float *>(p[4]);
    spread(s[1], s[0], p[3], [&](const Windows &w, int64_t in, int64_t out) {
      backward(w, dz + out, x + in, z + out, dx + in);
    });
  });
}
