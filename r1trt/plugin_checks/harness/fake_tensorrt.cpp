#include "fake_tensorrt.h"

#include <algorithm>
#include <cstdio>

namespace harness {

namespace {

using nvinfer1::IPluginCreatorInterface;

// ---- Version 10: plain classes.

class Logger10 {
 public:
  virtual void log(int32_t severity, char const* text) noexcept { messages().push_back({severity, text}); }
  virtual ~Logger10() = default;
};

class Finder10 {
 public:
  virtual Logger10* findLogger() { return &logger_; }
  virtual ~Finder10() = default;

 private:
  Logger10 logger_;
};

// ---- Version 11: both derive from the versioned interface.

class Logger11 final : public nvinfer1::IVersionedInterface {
 public:
  nvinfer1::InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILogger", 1, 0}; }
  virtual void log(int32_t severity, char const* text) noexcept { messages().push_back({severity, text}); }
};

class Finder11 final : public nvinfer1::IVersionedInterface {
 public:
  nvinfer1::InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILoggerFinder", 1, 0}; }
  virtual Logger11* findLogger() { return &logger_; }

 private:
  Logger11 logger_;
};

// ---- Registries: only three functions may be called.

[[noreturn]] void wrongSlot(char const* name) {
  std::fprintf(stderr, "the library called IPluginRegistry::%s\n", name);
  std::abort();
}

bool addCreator(IPluginCreatorInterface& creator) {
  registered().push_back(&creator);
  ++registrations();
  return true;
}

IPluginCreatorInterface* const* allCreators(int32_t* count) {
  *count = static_cast<int32_t>(registered().size());
  return registered().data();
}

bool removeCreator(IPluginCreatorInterface const& creator) {
  auto& list = registered();
  auto const found = std::find(list.begin(), list.end(), &creator);
  if (found == list.end()) wrongSlot("deregisterCreator with a creator that is not there");
  list.erase(found);
  return true;
}

#define R1TRT_FORBIDDEN(name) \
  virtual void name() {       \
    wrongSlot(#name);         \
  }

class Registry10 {
 public:
  R1TRT_FORBIDDEN(registerCreatorV1)
  R1TRT_FORBIDDEN(getPluginCreatorList)
  R1TRT_FORBIDDEN(getPluginCreator)
  virtual ~Registry10() = default;
  R1TRT_FORBIDDEN(setErrorRecorder)
  R1TRT_FORBIDDEN(getErrorRecorder)
  R1TRT_FORBIDDEN(deregisterCreatorV1)
  R1TRT_FORBIDDEN(isParentSearchEnabled)
  R1TRT_FORBIDDEN(setParentSearchEnabled)
  R1TRT_FORBIDDEN(loadLibrary)
  R1TRT_FORBIDDEN(deregisterLibrary)
  virtual bool registerCreator(IPluginCreatorInterface& creator, char const*) noexcept {
    return addCreator(creator);
  }
  virtual IPluginCreatorInterface* const* getAllCreators(int32_t* count) const noexcept {
    return allCreators(count);
  }
  R1TRT_FORBIDDEN(getCreator)
  virtual bool deregisterCreator(IPluginCreatorInterface const& creator) noexcept {
    return removeCreator(creator);
  }
};

class Registry11 {
 public:
  virtual ~Registry11() = default;
  R1TRT_FORBIDDEN(setErrorRecorder)
  R1TRT_FORBIDDEN(getErrorRecorder)
  R1TRT_FORBIDDEN(isParentSearchEnabled)
  R1TRT_FORBIDDEN(setParentSearchEnabled)
  R1TRT_FORBIDDEN(loadLibrary)
  R1TRT_FORBIDDEN(deregisterLibrary)
  virtual bool registerCreator(IPluginCreatorInterface& creator, char const*) noexcept {
    return addCreator(creator);
  }
  virtual IPluginCreatorInterface* const* getAllCreators(int32_t* count) const noexcept {
    return allCreators(count);
  }
  R1TRT_FORBIDDEN(getCreator)
  virtual bool deregisterCreator(IPluginCreatorInterface const& creator) noexcept {
    return removeCreator(creator);
  }
};

}  // namespace

std::vector<Message>& messages() {
  static std::vector<Message> list;
  return list;
}

std::vector<IPluginCreatorInterface*>& registered() {
  static std::vector<IPluginCreatorInterface*> list;
  return list;
}

int32_t& registrations() {
  static int32_t count = 0;
  return count;
}

void* finderOfMajor(int32_t major) {
  static Finder10 finder10;
  static Finder11 finder11;
  return major == 10 ? static_cast<void*>(&finder10) : &finder11;
}

void* registryOfMajor(int32_t major) {
  static Registry10 registry10;
  static Registry11 registry11;
  return major == 10 ? static_cast<void*>(&registry10) : &registry11;
}

}  // namespace harness
