// Convolution for MindSpore on the CPU by the oneDNN that MindSpore's wheel carries.
//
// MindSpore hands that library plain NCHW descriptors, for which it has matrix products or a reference loop only. Here it
// is asked which layouts it likes best ("format any"), tensors are reordered on the way in and out, and the work is spread
// over a thread pool of our own.
//
// Tensors are float32 and contiguous: x (N, C, H, W), weight (O, C/groups, KH, KW), y (N, O, OH, OW). An activation may
// instead come or be wanted in blocks of L channels, x (N, C/L, H, W, L), which the library calls nChw8c or nChw16c.
// geometry is int64: stride h, w; dilation h, w (1 = dense); padding top, bottom, left, right, or -1 for "same"; groups.

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "onednn.h"
#include "operator.h"

namespace {

enum Kind : int64_t { kForwardKind, kDataKind, kWeightsKind };
using Key = std::vector<int64_t>;  // kind, shapes of x, weight and y, geometry, lanes of x and y

struct Names { int first, second, result, query_first, query_second, query_result; };
constexpr Names kNames[] = {
    {kSrc, kWeights, kDst, kQuerySrc, kQueryWeights, kQueryDst},
    {kDiffDst, kWeights, kDiffSrc, kQueryDiffDst, kQueryWeights, kQueryDiffSrc},
    {kSrc, kDiffDst, kDiffWeights, kQuerySrc, kQueryDiffDst, kQueryDiffWeights},
};

class Convolution {
 public:
  explicit Convolution(const Key &key) : kind_(Kind(key[0])) {
    const int64_t *x = &key[1], *w = &key[5], *y = &key[9], *g = &key[13];
    const int64_t groups = g[8], x_lanes = key[22], y_lanes = key[23];
    int64_t weights[5] = {groups, w[0] / groups, w[1], w[2], w[3]};  // as the library counts them where there are groups
    const int64_t *wd = groups > 1 ? weights : w;
    const int wn = groups > 1 ? 5 : 4;
    int64_t strides[2], dilates[2], before[2], after[2];
    for (int i = 0; i < 2; ++i) {
      strides[i] = g[i];
      dilates[i] = g[2 + i] - 1;
      const int64_t kernel = dilates[i] * (w[2 + i] - 1) + w[2 + i];
      const int64_t same = std::max<int64_t>((y[2 + i] - 1) * strides[i] + kernel - x[2 + i], 0);
      before[i] = g[4 + 2 * i] < 0 ? same / 2 : g[4 + 2 * i];
      after[i] = g[4 + 2 * i] < 0 ? same - same / 2 : g[5 + 2 * i];
    }
    Owned src = any(x, 4), weight = any(wd, wn), dst = any(y, 4);
    Handle engine = state->engine, attributes = state->attributes, made;
    check(lib.convolution_forward_primitive_desc_create(&made, engine, kForward, kDirect, src.get(), weight.get(), nullptr,
                                                        dst.get(), strides, dilates, before, after, attributes),
          "this convolution");
    Owned desc = own(made, lib.primitive_desc_destroy);
    if (kind_ == kDataKind) {
      check(lib.convolution_backward_data_primitive_desc_create(&made, engine, kDirect, src.get(), weight.get(), dst.get(),
                                                                strides, dilates, before, after, desc.get(), attributes),
            "this convolution's data gradient");
    } else if (kind_ == kWeightsKind) {
      check(lib.convolution_backward_weights_primitive_desc_create(&made, engine, kDirect, src.get(), weight.get(), nullptr,
                                                                   dst.get(), strides, dilates, before, after, desc.get(),
                                                                   attributes),
            "this convolution's weight gradient");
    }
    if (kind_ != kForwardKind) desc = own(made, lib.primitive_desc_destroy);
    const Names &names = kNames[kind_];
    auto layout = [&](int query) { return lib.primitive_desc_query_md(desc.get(), query, 0); };
    const int64_t *dims[] = {kind_ == kDataKind ? y : x, kind_ == kWeightsKind ? y : wd,
                             kind_ == kForwardKind ? y : kind_ == kDataKind ? x : wd};
    const int ndims[] = {4, kind_ == kWeightsKind ? 4 : wn, kind_ == kWeightsKind ? wn : 4};
    const int64_t lanes[] = {kind_ == kDataKind ? y_lanes : x_lanes, kind_ == kWeightsKind ? y_lanes : 1,
                             kind_ == kForwardKind ? y_lanes : kind_ == kDataKind ? x_lanes : 1};
    const int queries[] = {names.query_first, names.query_second, names.query_result};
    for (int i = 0; i < 3; ++i) tensors_.emplace_back(held(dims[i], ndims[i], lanes[i]), layout(queries[i]), i < 2);
    scratch_ = memory(layout(kQueryScratch));
    size_t last = aligned(lib.memory_desc_get_size(layout(kQueryScratch)));
    for (const Tensor &tensor : tensors_) last = std::max(last, tensor.scratch_desc_bytes);
    bytes_ = last;
    for (const Tensor &tensor : tensors_) bytes_ += tensor.bytes;
    primitive_ = primitive(desc.get());
  }

  size_t bytes() const { return bytes_; }
  // Whether the library likes both activations as they are held.
  bool liked() const { return !tensors_[0].reorder && !tensors_[kind_ == kWeightsKind ? 1 : 2].reorder; }

  void run(void *first, void *second, void *result, char *free) {
    void *data[] = {first, second, result};
    for (int i = 0; i < 3; ++i) tensors_[i].place(data[i], free);
    check(lib.memory_set_data_handle(scratch_.get(), free), "memory");
    tensors_[0].copy(true, free);
    tensors_[1].copy(true, free);
    const Names &names = kNames[kind_];
    const Argument arguments[] = {{names.first, tensors_[0].used()},
                                  {names.second, tensors_[1].used()},
                                  {names.result, tensors_[2].used()},
                                  {kScratch, scratch_.get()}};
    check(lib.primitive_execute(primitive_.get(), state->stream, 4, arguments), "to run a convolution");
    tensors_[2].copy(false, free);
  }

 private:
  Kind kind_;
  std::vector<Tensor> tensors_;
  Owned primitive_{nullptr, nullptr}, scratch_{nullptr, nullptr};
  size_t bytes_ = 0;
};

// The convolutions used last. A training step of ResNet-50 has 70 different ones, and as many for the last batch.
constexpr size_t kKept = 512;
std::list<std::pair<Key, Convolution>> recent;
std::map<Key, std::list<std::pair<Key, Convolution>>::iterator> known;

Convolution &find(const Key &key) {
  auto found = known.find(key);
  if (found != known.end()) {
    recent.splice(recent.begin(), recent, found->second);
    return recent.front().second;
  }
  int before = 0;  // descriptors are cut for a number of threads, which is asked of the thread that makes them
  check(lib.threadpool_interop_get_max_concurrency(&before), "its number of threads");
  check(lib.threadpool_interop_set_max_concurrency(state->parts), "the number of parts");
  struct Restore { int value; ~Restore() { lib.threadpool_interop_set_max_concurrency(value); } } restore{before};
  recent.emplace_front(std::piecewise_construct, std::forward_as_tuple(key), std::forward_as_tuple(key));
  known[key] = recent.begin();
  if (recent.size() > kKept) {
    known.erase(recent.back().first);
    recent.pop_back();
  }
  return recent.front().second;
}

// (N, C, H, W) and the number of lanes of a shape that MindSpore tells.
struct Activation {
  int64_t dims[4], lanes;
  Activation(const int64_t *shape, int ndims) : dims{shape[0], shape[1], shape[2], shape[3]}, lanes(ndims == 5 ? shape[4] : 1) {
    dims[1] *= lanes;
  }
};

void check_same(const Activation &from, const Activation &to) {
  if (!std::equal(from.dims, from.dims + 4, to.dims)) throw std::runtime_error("shapes do not fit");
}

Key key_of(Kind kind, const Activation &x, const int64_t *w, const Activation &y, const int64_t *geometry) {
  Key key{kind};
  for (const int64_t *shape : {x.dims, w, y.dims}) key.insert(key.end(), shape, shape + 4);
  key.insert(key.end(), geometry, geometry + 9);
  key.insert(key.end(), {x.lanes, y.lanes});
  return key;
}

// Scratch memory of at least so many bytes, for whoever has the turn. One piece serves all: what the largest convolution so far
// needed, about its tensors in the library's layout; it is not given back.
char *scratch(size_t bytes) {
  if (bytes > state->scratch_bytes) {
    std::free(state->scratch);
    state->scratch_bytes = 0;
    state->scratch = static_cast<char *>(std::aligned_alloc(4096, bytes));
    if (!state->scratch) throw std::bad_alloc();
    state->scratch_bytes = bytes;
  }
  return state->scratch;
}

// An operator's work: the third of its tensors, if it has one, is the geometry.
template <class Work>
int with_turn(const char **types, int count, const Work &work) {
  return guarded("convolution", [&] {
    if (!state) throw std::runtime_error("mslt_open was not called");
    for (int i = 0; i < count; ++i) expect(i == 2 ? "int64" : "float32", types[i]);
    std::lock_guard<std::mutex> guard(pool_turn);  // the scratch memory is shared, too
    work();
  });
}

int run(Kind kind, const char **types, int count, const Activation &x, const int64_t *w, const Activation &y,
        const void *geometry, void *first, void *second, void *result) {
  return with_turn(types, count, [&] {
    if (x.dims[0] == 0) {  // no image: only the weights' gradient has a value
      if (kind == kWeightsKind) std::memset(result, 0, size_t(w[0] * w[1] * w[2] * w[3]) * sizeof(float));
      return;
    }
    Convolution &convolution = find(key_of(kind, x, w, y, static_cast<const int64_t *>(geometry)));
    convolution.run(first, second, result, scratch(convolution.bytes()));
  });
}

// A second instance of the library, from a copy in memory: its limit on instructions is a setting of the whole library.
// MindSpore's must not use AVX-512, since its convolutions in plain layout are 34 times slower with it, and ours gain a
// fifth by it. Null where that does not work, or where the limit is not the one that ms_longtail sets (runtime.tune_cpu) but
// somebody's own; the instance that MindSpore uses then serves, with its limit.
void *private_copy(const char *path) {
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const char *limit_set = std::getenv("ONEDNN_MAX_CPU_ISA");
  if (!limit_set || std::strcmp(limit_set, "AVX2")) return nullptr;
#ifndef MSLT_ALWAYS_COPY  // for tests on processors without AVX-512
  if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) return nullptr;
#endif
  const int from = open(path, O_RDONLY | O_CLOEXEC), to = memfd_create("libdnnl", MFD_CLOEXEC);
  struct stat info {};
  bool copied = from >= 0 && to >= 0 && fstat(from, &info) == 0;
  for (off_t done = 0; copied && done < info.st_size;) copied = sendfile(to, from, &done, size_t(info.st_size - done)) > 0;
  const std::string name = "/proc/self/fd/" + std::to_string(to);
  // Bound to its own functions first, should the other instance's be visible to all.
  void *handle = copied ? dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND) : nullptr;
  if (from >= 0) close(from);
  if (to >= 0) close(to);
  auto limit = handle ? reinterpret_cast<int (*)(int)>(dlsym(handle, "dnnl_set_max_cpu_isa")) : nullptr;
  constexpr int kNoLimit = 0;
  if (limit && limit(kNoLimit) == 0) return handle;
#endif
  (void)path;
  return nullptr;
}

}  // namespace

// Open the oneDNN in the file at `path`; work is cut in `parts` that `threads` threads take. Null on success, else why
// not, in one line.
EXPORT const char *mslt_open(const char *path, int threads, int parts) {
  if (state) return nullptr;
  // MindSpore's instance comes first: whoever asks for this name later gets the first one of that name.
  void *handle = dlopen("libdnnl.so.3", RTLD_NOW | RTLD_NOLOAD);
  if (!handle) handle = dlopen(path, RTLD_NOW);
  if (!handle) {
    failure = std::string("no libdnnl.so.3: ") + dlerror();
    return failure.c_str();
  }
  auto version = reinterpret_cast<const Version *(*)()>(dlsym(handle, "dnnl_version"));
  if (!version) return "libdnnl.so.3 does not tell its version";
  const Version &v = *version();
  if (v.major != 3 || v.minor != 10 || v.cpu_runtime != kThreadPoolRuntime) {
    failure = "oneDNN 3.10 with the thread-pool runtime is needed, found " + std::to_string(v.major) + "." +
              std::to_string(v.minor) + " with runtime " + std::to_string(v.cpu_runtime);
    return failure.c_str();
  }
  Dl_info file;
  if (dladdr(reinterpret_cast<void *>(version), &file)) {
    if (void *copy = private_copy(file.dli_fname)) handle = copy;
  }
#define LOAD(name, type)                                                  \
  lib.name = reinterpret_cast<type>(dlsym(handle, "dnnl_" #name));        \
  if (!lib.name) return "libdnnl.so.3 has no function dnnl_" #name;
  FUNCTIONS(LOAD)
#undef LOAD
  try {
    auto made = std::make_unique<State>();
    made->parts = std::max(1, parts);
    if (!pool) {
      pool = new Pool(std::max(1, threads), made->parts);
      stand_forks();
    }
    check(lib.engine_create(&made->engine, kCpu, 0), "an engine");
    check(lib.threadpool_interop_stream_create(&made->stream, made->engine, pool), "a stream");
    check(lib.primitive_attr_create(&made->attributes), "attributes");
    check(lib.primitive_attr_set_scratchpad_mode(made->attributes, kScratchByCaller), "scratch memory of the caller");
    check(lib.primitive_attr_set_deterministic(made->attributes, 1), "to repeat its results");
    state = made.release();
  } catch (const std::exception &error) {
    failure = error.what();
    return failure.c_str();
  }
  return nullptr;
}

// Whether the library takes this convolution and both its gradients: null, else why not. What it takes is kept for use.
EXPORT const char *mslt_accepts(const int64_t *x, int x_axes, const int64_t *w, const int64_t *y, int y_axes, const int64_t *geometry) {
  static thread_local std::string why;
  try {
    if (!state) throw std::runtime_error("mslt_open was not called");
    std::lock_guard<std::mutex> guard(pool_turn);
    for (Kind kind : {kForwardKind, kDataKind, kWeightsKind}) {
      find(key_of(kind, Activation(x, x_axes), w, Activation(y, y_axes), geometry));
    }
  } catch (const std::exception &error) {
    why = error.what();
    return why.c_str();
  }
  return nullptr;
}

// The number of channels in a block of the layout that the library likes for an everyday convolution and both its
// gradients on this processor; 1 where that is none of ours.
EXPORT int mslt_lanes() {
  std::lock_guard<std::mutex> guard(pool_turn);
  for (int64_t lanes : {16, 8}) {
    try {
      const int64_t shape[] = {16, 32 / lanes, 16, 16, lanes}, weight[] = {32, 32, 3, 3}, geometry[] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
      const Activation x(shape, 5);
      bool liked = true;
      for (Kind kind : {kForwardKind, kDataKind, kWeightsKind}) liked = liked && find(key_of(kind, x, weight, x, geometry)).liked();
      if (liked) return int(lanes);
    } catch (const std::exception &) {  // then another layout serves
    }
  }
  return 1;
}

// The instruction set that the library takes, in its own numbers (dnnl_cpu_isa_t).
EXPORT int mslt_isa() { return state ? lib.get_effective_cpu_isa() : 0; }

// Convolutions kept, and bytes of scratch memory.
EXPORT int64_t mslt_kept() { return int64_t(recent.size()); }
EXPORT int64_t mslt_scratch() { return state ? int64_t(state->scratch_bytes) : 0; }

EXPORT int ConvForward(ARGUMENTS) {  // x, weight, geometry -> y
  return run(kForwardKind, types, count, {s[0], n[0]}, s[1], {s[3], n[3]}, p[2], p[0], p[1], p[3]);
}
EXPORT int ConvData(ARGUMENTS) {  // dy, weight, geometry, x -> dx
  return run(kDataKind, types, count, {s[4], n[4]}, s[1], {s[0], n[0]}, p[2], p[0], p[1], p[4]);
}
EXPORT int ConvWeights(ARGUMENTS) {  // x, dy, geometry, weight -> dw
  return run(kWeightsKind, types, count, {s[0], n[0]}, s[4], {s[1], n[1]}, p[2], p[0], p[1], p[4]);
}
// Where number [n, c, p] of an activation is; p counts rows and columns as one.
static int64_t place(const Activation &x, int64_t n, int64_t c, int64_t p) {
  return ((n * x.dims[1] + c / x.lanes * x.lanes) * x.dims[2] * x.dims[3]) + p * x.lanes + c % x.lanes;
}

EXPORT int Reorder(ARGUMENTS) {  // x -> the same numbers in plain layout or in blocks, of float32 or of 16 bits
  const Activation from(s[0], n[0]), to(s[1], n[1]);
  const bool half = std::strstr(types[0], "float16") && !std::strcmp(types[0], types[1]);  // bfloat16, too
  if (half) {  // where a layer at half precision comes after blocks: once or twice in a network
    return guarded("reorder", [&] {
      check_same(from, to);
      const auto *x = static_cast<const uint16_t *>(p[0]);
      auto *y = static_cast<uint16_t *>(p[1]);
      for (int64_t i = 0; i < from.dims[0]; ++i)
        for (int64_t c = 0; c < from.dims[1]; ++c)
          for (int64_t j = 0; j < from.dims[2] * from.dims[3]; ++j) y[place(to, i, c, j)] = x[place(from, i, c, j)];
    });
  }
  return with_turn(types, count, [&] {
    check_same(from, to);
    if (from.dims[0] == 0) return;
    Owned wanted = held(to.dims, 4, to.lanes);
    Tensor tensor(held(from.dims, 4, from.lanes), wanted.get(), true);
    tensor.pass(p[0], p[1], scratch(tensor.scratch_desc_bytes));
  });
}
