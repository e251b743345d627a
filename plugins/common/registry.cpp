#include "registry.h"

#include <dlfcn.h>

#include <cstring>
#include <initializer_list>
#include <vector>

#include "process.h"

namespace r1trt::plugins {

namespace {

using nvinfer1::IPluginCreatorInterface;
using nvinfer1::IPluginCreatorV3One;
using RegistryFunction = void* (*)();

// Where IPluginRegistry keeps three of its functions.
struct RegistrySlots {
  int registerCreator;
  int getAllCreators;
  int deregisterCreator;
};
constexpr RegistrySlots kSlotsVersion10{12, 13, 15};
constexpr RegistrySlots kSlotsVersion11{8, 9, 11};

// What registerWithProcess did.
struct Registration {
  void* registry = nullptr;
  RegistrySlots slots = kSlotsVersion11;
  std::vector<IPluginCreatorInterface*> creators;
};

Registration& registration() {
  static auto* const instance = new Registration;  // outlives every library's last call, as the creators do
  return *instance;
}

// getPluginRegistry of the process's TensorRT: from the global scope, else from a library that was loaded
// without putting its symbols there, as Triton does with its backends' libraries.
RegistryFunction findRegistryFunction() {
  if (void* symbol = dlsym(RTLD_DEFAULT, "getPluginRegistry"))
    return reinterpret_cast<RegistryFunction>(symbol);
  for (char const* name : {"libnvinfer.so.11", "libnvinfer.so.10"}) {
    void* library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) continue;
    void* symbol = dlsym(library, "getPluginRegistry");
    dlclose(library);
    if (symbol != nullptr) return reinterpret_cast<RegistryFunction>(symbol);
  }
  return nullptr;
}

bool sameCreator(IPluginCreatorInterface* candidate, IPluginCreatorV3One& creator) {
  // Creators of plugins before V3 have other functions in these slots.
  if (std::strcmp(candidate->getInterfaceInfo().kind, creator.getInterfaceInfo().kind) != 0) return false;
  auto& other = *static_cast<IPluginCreatorV3One*>(candidate);
  return std::strcmp(other.getPluginName(), creator.getPluginName()) == 0 &&
         std::strcmp(other.getPluginVersion(), creator.getPluginVersion()) == 0 &&
         std::strcmp(other.getPluginNamespace(), creator.getPluginNamespace()) == 0;
}

bool isRegistered(void* registry, RegistrySlots slots, IPluginCreatorV3One& creator) {
  // getCreator would log an error for every plugin that is not there yet.
  int32_t count = 0;
  auto* const* all =
      callSlot<IPluginCreatorInterface* const*, int32_t*>(registry, slots.getAllCreators, &count);
  for (int32_t i = 0; i < count; ++i) {
    if (sameCreator(all[i], creator)) return true;
  }
  return false;
}

}  // namespace

int registerWithProcess(IPluginCreatorInterface* const* creators, int32_t count) noexcept {
  RegistryFunction const getRegistry = findRegistryFunction();
  if (getRegistry == nullptr) return 0;
  auto const* function = reinterpret_cast<void const*>(getRegistry);
  Layout const layout = layoutOfAddress(function);
  // Within IPluginRegistry::loadLibrary, which registers what getCreators gives it, and may hold a lock.
  if (layout == Layout::kUnknown || isOnCallStack(function)) return 0;
  Registration& done = registration();
  done.registry = getRegistry();
  if (done.registry == nullptr) return 0;
  done.slots = layout == Layout::kVersion10 ? kSlotsVersion10 : kSlotsVersion11;
  for (int32_t i = 0; i < count; ++i) {
    auto& creator = *static_cast<IPluginCreatorV3One*>(creators[i]);
    if (isRegistered(done.registry, done.slots, creator)) continue;
    if (callSlot<bool, IPluginCreatorInterface&, char const*>(done.registry, done.slots.registerCreator,
                                                              creator, creator.getPluginNamespace())) {
      done.creators.push_back(&creator);
    }
  }
  return static_cast<int>(done.creators.size());
}

void unregisterFromProcess() noexcept {
  Registration& done = registration();
  for (IPluginCreatorInterface* creator : done.creators) {
    callSlot<bool, IPluginCreatorInterface const&>(done.registry, done.slots.deregisterCreator, *creator);
  }
  done.creators.clear();
}

}  // namespace r1trt::plugins
