// What is needed of oneDNN: its C interface, and tensors in MindSpore's and in its own layout.
//
// The wheel has no oneDNN headers, so the few functions are declared here, and only the release that they were checked
// against is accepted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace {

// ---------------------------------------------------------------------------------------------- oneDNN's C interface

using Dims = int64_t[12];
using Handle = void *;  // engines, streams, descriptors, primitives and memories are all opaque pointers
struct Version { int major, minor, patch; const char *hash; unsigned cpu_runtime, gpu_runtime; };
struct Argument { int name; Handle memory; };

enum : int {
  kCpu = 1, kFloat32 = 3, kFormatAny = 1, kForward = 64, kDirect = 1, kScratchByCaller = 1,
  kQuerySrc = 129, kQueryDiffSrc, kQueryWeights, kQueryDiffWeights, kQueryDst, kQueryDiffDst, kQueryScratch = 136,
  kSrc = 1, kDst = 17, kWeights = 33, kScratch = 80, kDiffSrc = 129, kDiffDst = 145, kDiffWeights = 161,
};
constexpr unsigned kThreadPoolRuntime = 8;

#define FUNCTIONS(F)                                                                                                    \
  F(engine_create, int (*)(Handle *, int, size_t))                                                                      \
  F(get_effective_cpu_isa, int (*)())                                                                                   \
  F(threadpool_interop_stream_create, int (*)(Handle *, Handle, void *))                                                \
  F(threadpool_interop_set_max_concurrency, int (*)(int))                                                               \
  F(threadpool_interop_get_max_concurrency, int (*)(int *))                                                             \
  F(primitive_attr_create, int (*)(Handle *))                                                                           \
  F(primitive_attr_set_scratchpad_mode, int (*)(Handle, int))                                                           \
  F(primitive_attr_set_deterministic, int (*)(Handle, int))                                                             \
  F(memory_desc_create_with_tag, int (*)(Handle *, int, const int64_t *, int, int))                                     \
  F(memory_desc_create_with_strides, int (*)(Handle *, int, const int64_t *, int, const int64_t *))                     \
  F(memory_desc_create_with_string_tag, int (*)(Handle *, int, const int64_t *, int, const char *))                     \
  F(memory_desc_destroy, int (*)(Handle))                                                                               \
  F(memory_desc_equal, int (*)(Handle, Handle))                                                                         \
  F(memory_desc_get_size, size_t (*)(Handle))                                                                           \
  F(memory_create, int (*)(Handle *, Handle, Handle, void *))                                                           \
  F(memory_set_data_handle, int (*)(Handle, void *))                                                                    \
  F(memory_destroy, int (*)(Handle))                                                                                    \
  F(convolution_forward_primitive_desc_create,                                                                          \
    int (*)(Handle *, Handle, int, int, Handle, Handle, Handle, Handle, const int64_t *, const int64_t *,               \
            const int64_t *, const int64_t *, Handle))                                                                  \
  F(convolution_backward_data_primitive_desc_create,                                                                    \
    int (*)(Handle *, Handle, int, Handle, Handle, Handle, const int64_t *, const int64_t *, const int64_t *,           \
            const int64_t *, Handle, Handle))                                                                           \
  F(convolution_backward_weights_primitive_desc_create,                                                                 \
    int (*)(Handle *, Handle, int, Handle, Handle, Handle, Handle, const int64_t *, const int64_t *, const int64_t *,   \
            const int64_t *, Handle, Handle))                                                                           \
  F(reorder_primitive_desc_create, int (*)(Handle *, Handle, Handle, Handle, Handle, Handle))                           \
  F(primitive_desc_query_md, Handle (*)(Handle, int, int))                                                              \
  F(primitive_desc_destroy, int (*)(Handle))                                                                            \
  F(primitive_create, int (*)(Handle *, Handle))                                                                        \
  F(primitive_execute, int (*)(Handle, Handle, int, const Argument *))                                                  \
  F(primitive_destroy, int (*)(Handle))

struct Library {
#define MEMBER(name, type) std::add_pointer_t<std::remove_pointer_t<type>> name = nullptr;
  FUNCTIONS(MEMBER)
#undef MEMBER
} lib;

void check(int status, const char *what) {
  if (status != 0) throw std::runtime_error(std::string("oneDNN refuses ") + what + ", status " + std::to_string(status));
}

// --------------------------------------------------------------------------------------------------- one convolution

struct State {
  Handle engine = nullptr, stream = nullptr, attributes = nullptr;
  int parts = 1;
  char *scratch = nullptr;
  size_t scratch_bytes = 0;
} *state = nullptr;
std::string failure;

using Owned = std::unique_ptr<void, int (*)(Handle)>;
Owned own(Handle handle, int (*destroy)(Handle)) { return Owned(handle, destroy); }

Owned plain(const int64_t *dims, int ndims) {
  Dims strides;
  int64_t step = 1;
  for (int i = ndims; i-- > 0; step *= dims[i]) strides[i] = step;
  Handle desc;
  check(lib.memory_desc_create_with_strides(&desc, ndims, dims, kFloat32, strides), "a tensor");
  return own(desc, lib.memory_desc_destroy);
}

// An activation (N, C, H, W) in blocks of `lanes` channels.
Owned blocked(const int64_t *dims, int64_t lanes) {
  if ((lanes != 8 && lanes != 16) || dims[1] % lanes) {
    throw std::runtime_error("no blocks of " + std::to_string(lanes) + " in " + std::to_string(dims[1]) + " channels");
  }
  Handle desc;
  const char *tag = lanes == 8 ? "aBcd8b" : "aBcd16b";
  check(lib.memory_desc_create_with_string_tag(&desc, 4, dims, kFloat32, tag), "a tensor in blocks");
  return own(desc, lib.memory_desc_destroy);
}

// As MindSpore holds it; one lane is the plain layout.
Owned held(const int64_t *dims, int ndims, int64_t lanes) { return lanes > 1 ? blocked(dims, lanes) : plain(dims, ndims); }

Owned any(const int64_t *dims, int ndims) {
  Handle desc;
  check(lib.memory_desc_create_with_tag(&desc, ndims, dims, kFloat32, kFormatAny), "a tensor");
  return own(desc, lib.memory_desc_destroy);
}

Owned memory(Handle desc) {
  Handle result;
  check(lib.memory_create(&result, desc, state->engine, nullptr), "memory");
  return own(result, lib.memory_destroy);
}

Owned primitive(Handle desc) {
  Handle result;
  check(lib.primitive_create(&result, desc), "a primitive");
  return own(result, lib.primitive_destroy);
}

size_t aligned(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }

// A tensor of MindSpore's and the same in the library's layout; the two are one where the library likes what is there.
struct Tensor {
  Owned outside, inside, reorder;
  size_t bytes = 0;  // of scratch memory

  Tensor(Owned desc, Handle liked, bool input)
      : outside(nullptr, nullptr), inside(nullptr, nullptr), reorder(nullptr, nullptr) {
    outside = memory(desc.get());
    if (lib.memory_desc_equal(desc.get(), liked)) return;
    inside = memory(liked);
    bytes = aligned(lib.memory_desc_get_size(liked));
    Handle from = input ? desc.get() : liked, to = input ? liked : desc.get(), made;
    check(lib.reorder_primitive_desc_create(&made, from, state->engine, to, state->engine, state->attributes), "a reorder");
    Owned reorder_desc = own(made, lib.primitive_desc_destroy);
    scratch_desc_bytes = aligned(lib.memory_desc_get_size(lib.primitive_desc_query_md(made, kQueryScratch, 0)));
    scratch = memory(lib.primitive_desc_query_md(made, kQueryScratch, 0));
    reorder = primitive(made);
  }

  Owned scratch{nullptr, nullptr};
  size_t scratch_desc_bytes = 0;

  void place(void *data, char *&free) {
    check(lib.memory_set_data_handle(outside.get(), data), "memory");
    if (!inside) return;
    check(lib.memory_set_data_handle(inside.get(), free), "memory");
    free += bytes;
  }
  // All at once, to where the caller wants it; only where the two layouts differ.
  void pass(void *from, void *to, char *free) {
    if (!inside) throw std::runtime_error("nothing to reorder");
    check(lib.memory_set_data_handle(outside.get(), from), "memory");
    check(lib.memory_set_data_handle(inside.get(), to), "memory");
    copy(true, free);
  }
  Handle used() const { return inside ? inside.get() : outside.get(); }

  void copy(bool in, char *free) {
    if (!reorder) return;
    check(lib.memory_set_data_handle(scratch.get(), free), "memory");
    const Argument arguments[] = {
        {kSrc, in ? outside.get() : inside.get()}, {kDst, in ? inside.get() : outside.get()}, {kScratch, scratch.get()}};
    check(lib.primitive_execute(reorder.get(), state->stream, 3, arguments), "to reorder");
  }
};

}  // namespace
