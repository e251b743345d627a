// Drives a plugin library the way TensorRT does, for tests that call it through ctypes.
//
// Functions that return text return JSON, valid until the next call of the same thread.
#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "common/tensorrt.h"
#include "expressions.h"
#include "fake_tensorrt.h"

#define HARNESS extern "C" __attribute__((visibility("default")))

namespace {

using namespace nvinfer1;

// A tensor of a layer; a negative number in `dims` is a symbol when shapes are asked for.
struct TensorArgument {
  int32_t type;
  int32_t format;
  int32_t rank;
  int32_t padding;
  int64_t dims[8];
  int64_t min[8];
  int64_t opt[8];
  int64_t max[8];
};

struct FieldArgument {
  char const* name;
  void const* data;
  int32_t type;
  int32_t length;
};

struct Library {
  void* handle = nullptr;
  IPluginCreatorInterface* const* creators = nullptr;
  int32_t count = 0;
};

char const* keep(std::string text) {
  thread_local std::string kept;
  kept = std::move(text);
  return kept.c_str();
}

std::string quoted(char const* text) {
  if (text == nullptr) return "null";
  std::string result = "\"";
  for (char const* c = text; *c != '\0'; ++c) {
    if (*c == '"' || *c == '\\') result += '\\';
    result += *c == '\n' ? ' ' : *c;
  }
  return result + "\"";
}

std::string infoText(InterfaceInfo const& info) {
  return "[" + quoted(info.kind) + ", " + std::to_string(info.major) + ", " + std::to_string(info.minor) +
         "]";
}

std::string fieldText(PluginField const& field) {
  std::ostringstream text;
  text.precision(9);
  text << "{\"name\": " << quoted(field.name) << ", \"type\": " << static_cast<int32_t>(field.type)
       << ", \"length\": " << field.length << ", \"value\": ";
  if (field.data == nullptr) {
    text << "null";
  } else if (field.type == PluginFieldType::kINT32) {
    text << *static_cast<int32_t const*>(field.data);
  } else if (field.type == PluginFieldType::kFLOAT32) {
    text << *static_cast<float const*>(field.data);
  } else {
    text << quoted(std::string(static_cast<char const*>(field.data), field.length).c_str());
  }
  return text.str() + "}";
}

std::string fieldsText(PluginFieldCollection const* fields) {
  std::string text = "[";
  for (int32_t i = 0; i < fields->nbFields; ++i) text += (i > 0 ? ", " : "") + fieldText(fields->fields[i]);
  return text + "]";
}

Dims dimsOf(int32_t rank, int64_t const* values) {
  Dims dims{};
  dims.nbDims = rank;
  std::memcpy(dims.d, values, sizeof dims.d);
  return dims;
}

PluginTensorDesc descOf(TensorArgument const& tensor) {
  PluginTensorDesc desc{};
  desc.dims = dimsOf(tensor.rank, tensor.dims);
  desc.type = static_cast<DataType>(tensor.type);
  desc.format = static_cast<TensorFormat>(tensor.format);
  desc.scale = 1.0F;
  return desc;
}

std::vector<PluginTensorDesc> descsOf(TensorArgument const* tensors, int32_t count) {
  std::vector<PluginTensorDesc> descs;
  for (int32_t i = 0; i < count; ++i) descs.push_back(descOf(tensors[i]));
  return descs;
}

std::vector<DynamicPluginTensorDesc> dynamicDescsOf(TensorArgument const* tensors, int32_t count) {
  std::vector<DynamicPluginTensorDesc> descs(count);
  for (int32_t i = 0; i < count; ++i) {
    TensorArgument const& tensor = tensors[i];
    descs[i].desc = descOf(tensor);
    descs[i].min = dimsOf(tensor.rank, tensor.min);
    descs[i].opt = dimsOf(tensor.rank, tensor.opt);
    descs[i].max = dimsOf(tensor.rank, tensor.max);
  }
  return descs;
}

template <typename Capability>
Capability& capability(IPluginV3* plugin, PluginCapabilityType type) {
  return *static_cast<Capability*>(plugin->getCapabilityInterface(type));
}
IPluginV3OneCore& coreOf(IPluginV3* plugin) {
  return capability<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE);
}
IPluginV3OneBuildV2& buildOf(IPluginV3* plugin) {
  return capability<IPluginV3OneBuildV2>(plugin, PluginCapabilityType::kBUILD);
}
IPluginV3OneRuntime& runtimeOf(IPluginV3* plugin) {
  return capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
}
IPluginCreatorV3One& creatorOf(Library* library, int32_t index) {
  return *static_cast<IPluginCreatorV3One*>(library->creators[index]);
}

}  // namespace

// ---- The process's "TensorRT"

HARNESS char const* harness_registered() {
  std::string text = "[";
  for (IPluginCreatorInterface* creator : harness::registered()) {
    text +=
        (text.size() > 1 ? ", " : "") + quoted(static_cast<IPluginCreatorV3One*>(creator)->getPluginName());
  }
  return keep(text + "]");
}

HARNESS int32_t harness_registrations() {
  return harness::registrations();
}

HARNESS char const* harness_messages() {
  std::string text = "[";
  for (harness::Message const& message : harness::messages()) {
    text += (text.size() > 1 ? ", [" : "[") + std::to_string(message.severity) + ", " +
            quoted(message.text.c_str()) + "]";
  }
  harness::messages().clear();
  return keep(text + "]");
}

// ---- The library and its creators

HARNESS Library* harness_open(char const* path) {
  auto* library = new Library;
  library->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library->handle == nullptr) {
    harness::messages().push_back({0, dlerror()});
    delete library;
    return nullptr;
  }
  using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
  using SetLoggerFinder = void (*)(void*);
  auto const getCreators = reinterpret_cast<GetCreators>(dlsym(library->handle, "getCreators"));
  auto const setLoggerFinder = reinterpret_cast<SetLoggerFinder>(dlsym(library->handle, "setLoggerFinder"));
  setLoggerFinder(harness::finderOfMajor(harness::majorVersion()));
  library->creators = getCreators(library->count);
  return library;
}

HARNESS char const* harness_creators(Library* library) {
  std::string text = "[";
  for (int32_t i = 0; i < library->count; ++i) {
    IPluginCreatorV3One& creator = creatorOf(library, i);
    text += std::string(i > 0 ? ", " : "") + "{\"name\": " + quoted(creator.getPluginName()) +
            ", \"version\": " + quoted(creator.getPluginVersion()) +
            ", \"namespace\": " + quoted(creator.getPluginNamespace()) +
            ", \"interface\": " + infoText(creator.getInterfaceInfo()) +
            ", \"language\": " + std::to_string(static_cast<int32_t>(creator.getAPILanguage())) +
            ", \"fields\": " + fieldsText(creator.getFieldNames()) + "}";
  }
  return keep(text + "]");
}

HARNESS IPluginV3* harness_create(Library* library, int32_t creator, char const* layer,
                                  FieldArgument const* fields, int32_t count, int32_t phase) {
  std::vector<PluginField> list;
  for (int32_t i = 0; i < count; ++i) {
    list.emplace_back(fields[i].name, fields[i].data, static_cast<PluginFieldType>(fields[i].type),
                      fields[i].length);
  }
  PluginFieldCollection const collection{count, list.data()};
  return creatorOf(library, creator).createPlugin(layer, &collection, static_cast<TensorRTPhase>(phase));
}

// ---- The plugin

HARNESS IPluginV3* harness_clone(IPluginV3* plugin) {
  return plugin->clone();
}
HARNESS IPluginV3* harness_attach(IPluginV3* plugin) {
  return runtimeOf(plugin).attachToContext(nullptr);
}
HARNESS void harness_destroy(IPluginV3* plugin) {
  delete plugin;
}

HARNESS char const* harness_describe(IPluginV3* plugin) {
  IPluginV3OneCore& core = coreOf(plugin);
  IPluginV3OneBuildV2& build = buildOf(plugin);
  IPluginV3OneRuntime& runtime = runtimeOf(plugin);
  return keep(
      "{\"name\": " + quoted(core.getPluginName()) + ", \"version\": " + quoted(core.getPluginVersion()) +
      ", \"namespace\": " + quoted(core.getPluginNamespace()) + ", \"interfaces\": [" +
      infoText(plugin->getInterfaceInfo()) + ", " + infoText(core.getInterfaceInfo()) + ", " +
      infoText(build.getInterfaceInfo()) + ", " + infoText(runtime.getInterfaceInfo()) + "], \"outputs\": " +
      std::to_string(build.getNbOutputs()) + ", \"tactics\": " + std::to_string(build.getNbTactics()) +
      ", \"valid_tactics\": " + std::to_string(build.getValidTactics(nullptr, 0)) +
      ", \"set_tactic\": " + std::to_string(runtime.setTactic(0)) +
      ", \"format_limit\": " + std::to_string(build.getFormatCombinationLimit()) + ", \"timing_cache_id\": " +
      quoted(build.getTimingCacheID()) + ", \"metadata\": " + quoted(build.getMetadataString()) + "}");
}

HARNESS int32_t harness_output_types(IPluginV3* plugin, int32_t const* inputs, int32_t inputCount,
                                     int32_t* outputs, int32_t outputCount) {
  return buildOf(plugin).getOutputDataTypes(reinterpret_cast<DataType*>(outputs), outputCount,
                                            reinterpret_cast<DataType const*>(inputs), inputCount);
}

// The outputs' shapes as text, or null; dimension -n of an input is symbol "s<n>".
HARNESS char const* harness_output_shapes(IPluginV3* plugin, TensorArgument const* inputs, int32_t inputCount,
                                          int32_t outputCount) {
  harness::ExpressionBuilder builder;
  std::vector<DimsExprs> in(inputCount), out(outputCount);
  for (int32_t i = 0; i < inputCount; ++i) {
    in[i].nbDims = inputs[i].rank;
    for (int32_t j = 0; j < inputs[i].rank; ++j) {
      int64_t const dim = inputs[i].dims[j];
      in[i].d[j] = dim >= 0 ? builder.number(dim) : builder.symbol("s" + std::to_string(-dim));
    }
  }
  if (buildOf(plugin).getOutputShapes(in.data(), inputCount, nullptr, 0, out.data(), outputCount, builder) !=
      0) {
    return nullptr;
  }
  std::string text = "[";
  for (int32_t i = 0; i < outputCount; ++i) {
    text += i > 0 ? ", [" : "[";
    for (int32_t j = 0; j < out[i].nbDims; ++j) {
      text +=
          (j > 0 ? ", " : "") + quoted(static_cast<harness::Expression const*>(out[i].d[j])->text().c_str());
    }
    text += "]";
  }
  return keep(text + "]");
}

HARNESS int32_t harness_supports(IPluginV3* plugin, int32_t position, TensorArgument const* tensors,
                                 int32_t inputCount, int32_t outputCount) {
  auto const descs = dynamicDescsOf(tensors, inputCount + outputCount);
  return buildOf(plugin).supportsFormatCombination(position, descs.data(), inputCount, outputCount) ? 1 : 0;
}

HARNESS int32_t harness_configure(IPluginV3* plugin, TensorArgument const* inputs, int32_t inputCount,
                                  TensorArgument const* outputs, int32_t outputCount) {
  auto const in = dynamicDescsOf(inputs, inputCount), out = dynamicDescsOf(outputs, outputCount);
  return buildOf(plugin).configurePlugin(in.data(), inputCount, out.data(), outputCount);
}

HARNESS size_t harness_workspace(IPluginV3* plugin, TensorArgument const* inputs, int32_t inputCount,
                                 TensorArgument const* outputs, int32_t outputCount) {
  auto const in = dynamicDescsOf(inputs, inputCount), out = dynamicDescsOf(outputs, outputCount);
  return buildOf(plugin).getWorkspaceSize(in.data(), inputCount, out.data(), outputCount);
}

HARNESS int32_t harness_aliased_input(IPluginV3* plugin, int32_t output) {
  return buildOf(plugin).getAliasedInput(output);
}

HARNESS int32_t harness_on_shape_change(IPluginV3* plugin, TensorArgument const* inputs, int32_t inputCount,
                                        TensorArgument const* outputs, int32_t outputCount) {
  auto const in = descsOf(inputs, inputCount), out = descsOf(outputs, outputCount);
  return runtimeOf(plugin).onShapeChange(in.data(), inputCount, out.data(), outputCount);
}

HARNESS int32_t harness_enqueue(IPluginV3* plugin, TensorArgument const* inputs, int32_t inputCount,
                                TensorArgument const* outputs, int32_t outputCount,
                                void const* const* inputPointers, void* const* outputPointers,
                                void* workspace, void* stream) {
  auto const in = descsOf(inputs, inputCount), out = descsOf(outputs, outputCount);
  return runtimeOf(plugin).enqueue(in.data(), out.data(), inputPointers, outputPointers, workspace,
                                   static_cast<cudaStream_t>(stream));
}

HARNESS char const* harness_serialize(IPluginV3* plugin) {
  return keep(fieldsText(runtimeOf(plugin).getFieldsToSerialize()));
}

// Runs createPlugin(kRUNTIME) on what a plugin serialized, as deserializing an engine does.
HARNESS IPluginV3* harness_restore(Library* library, int32_t creator, IPluginV3* plugin, char const* layer) {
  return creatorOf(library, creator)
      .createPlugin(layer, runtimeOf(plugin).getFieldsToSerialize(), TensorRTPhase::kRUNTIME);
}
