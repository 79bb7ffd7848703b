// What every operator has, in the form that mindspore.ops.Custom calls: inputs, then outputs; 0 where all went well.
#pragma once

#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>

#include "pool.h"

#define EXPORT extern "C" __attribute__((visibility("default")))
#define ARGUMENTS int count, void **p, int *n, int64_t **s, const char **types, void *, void *

namespace {

// `work` with its errors as one line. Not one C++ exception may leave an operator.
template <class Work>
int guarded(const char *what, const Work &work) {
  try {
    if (!pool) throw std::runtime_error("mslt_open was not called");
    work();
    return 0;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "ms_longtail %s: %s\n", what, error.what());
    return 1;
  }
}

// The types that MindSpore passes are those after its own casts; an operator that got halves would read past their end.
inline void expect(const char *wanted, const char *type) {
  if (std::strcmp(type, wanted)) throw std::runtime_error(std::string(wanted) + " expected, got " + type);
}

}  // namespace
