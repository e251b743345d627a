#include "process.h"

#include <dlfcn.h>
#include <unwind.h>

namespace r1trt::plugins {

namespace {

using VersionFunction = int32_t (*)();

// The build's own idea of the version, for objects that come from no TensorRT library (an application's own
// logger finder): the major version of the headers, or 11.
#if defined(R1TRT_TENSORRT_MAJOR)
constexpr int32_t kBuildMajor = R1TRT_TENSORRT_MAJOR;
#else
constexpr int32_t kBuildMajor = 11;
#endif

// Where a library is loaded; null if the address is in none.
void const* baseOf(void const* address) {
  Dl_info info{};
  return dladdr(address, &info) == 0 ? nullptr : info.dli_fbase;
}

struct Search {
  void const* base;
  bool found;
};

_Unwind_Reason_Code lookAtFrame(_Unwind_Context* context, void* argument) {
  auto& search = *static_cast<Search*>(argument);
  search.found = baseOf(reinterpret_cast<void const*>(_Unwind_GetIP(context))) == search.base;
  return search.found ? _URC_END_OF_STACK : _URC_NO_REASON;
}

}  // namespace

Layout layoutOfVersion(int32_t version) noexcept {
  // TensorRT counts 10.3.1 as 100301, TensorRT-RTX 1.7.1 as 10701.
  constexpr int32_t kTensorRt11 = 110000, kTensorRt10 = 100000, kRtx17 = 10701, kRtx2 = 20000;
  if (version >= kTensorRt11) return Layout::kVersion11;
  if (version >= kTensorRt10) return Layout::kVersion10;
  if (version >= kRtx17 && version < kRtx2) return Layout::kVersion11;
  return Layout::kUnknown;
}

Layout layoutOfAddress(void const* address) noexcept {
  Dl_info info{};
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return Layout::kUnknown;
  void* library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return Layout::kUnknown;
  auto const version = reinterpret_cast<VersionFunction>(dlsym(library, "getInferLibVersion"));
  // dlsym searches what the library depends on as well, so a program's own objects take the layout of the
  // TensorRT that it is linked to.
  Layout const layout = layoutOfVersion(version != nullptr ? version() : kBuildMajor * 10000);
  dlclose(library);
  return layout;
}

bool isOnCallStack(void const* address) noexcept {
  Search search{baseOf(address), false};
  if (search.base != nullptr) _Unwind_Backtrace(lookAtFrame, &search);
  return search.found;
}

}  // namespace r1trt::plugins
