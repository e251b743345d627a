#include "hla_attention_plugin.h"

#include <atomic>
#include <limits>
#include <utility>

#include "../common/data_types.h"
#include "../common/error.h"

namespace r1trt::plugins {

namespace {

using nvinfer1::DataType;

// Of the process: where one cache is copied, all layers' are, and in every call.
std::atomic<bool> copyIsKnown{false};

}  // namespace

Signature const& HlaAttentionPlugin::operatorSignature() {
  constexpr double kHuge = std::numeric_limits<float>::max();
  static Signature const signature{
      "R1HLAAttention",
      {{"q", false},
       {"k", false},
       {"v", true},
       {"key_cache", true},
       {"value_cache", true},
       {"lam", true},
       {"past_len", false},
       {"seq_len", false}},
      {"y", "key_cache_out", "value_cache_out"},
      {
          {"scale", AttributeType::kFloat, 0.0, 0.0, kHuge},
          {"block_size", AttributeType::kInt, 32, 1, 1 << 20},
          {"inter_block", AttributeType::kInt, 0, 0, 1},
          {"lam_skip", AttributeType::kFloat, 0.0, 0.0, 0.5},
          {"v_head_dim", AttributeType::kInt, 0, 0, 1 << 20},
      },
  };
  return signature;
}

HlaAttentionPlugin::HlaAttentionPlugin(std::string layer, Attributes attributes)
    : OperatorPlugin(std::move(layer), std::move(attributes)) {
  requireForm();
}

void HlaAttentionPlugin::requireForm() const {
  bool const latent = !inputs().has(kV);
  if (latent && inputs().has(kValueCache)) throw PluginError("input 'value_cache' is there without 'v'");
  if (!latent && inputs().has(kKeyCache) != inputs().has(kValueCache)) {
    throw PluginError("one of 'key_cache' and 'value_cache' is there without the other");
  }
  if (latent && attributes().integer("v_head_dim") == 0) {
    throw PluginError("attribute 'v_head_dim' is 0; without 'v' it says how much of a key is its value");
  }
}

std::string HlaAttentionPlugin::typeFault(int32_t index, Tensors const& tensors) const {
  DataType const activation = tensors[kQ].type;
  switch (index) {
    case kQ:
      return activation == DataType::kHALF || activation == DataType::kBF16 ? "" : "HALF or BF16";
    case kLam:
      return unlessType(tensors[kLam], DataType::kFLOAT);
    case kPastLen:
    case kSeqLen:
      return unlessType(tensors[index], DataType::kINT64);
    default:
      return unlessType(tensors[index], activation);
  }
}

int32_t HlaAttentionPlugin::outputCount() const {
  return 1 + static_cast<int32_t>(inputs().has(kKeyCache)) + static_cast<int32_t>(inputs().has(kValueCache));
}

DataType HlaAttentionPlugin::outputType(int32_t, Tensors const& tensors) const {
  return tensors[kQ].type;
}

std::vector<OperatorPlugin::OutputDim> HlaAttentionPlugin::outputShape(int32_t output,
                                                                       Tensors const& tensors) const {
  if (output == kKeyCacheOut) return {{kKeyCache, 0}, {kKeyCache, 1}, {kKeyCache, 2}, {kKeyCache, 3}};
  if (output == kValueCacheOut)
    return {{kValueCache, 0}, {kValueCache, 1}, {kValueCache, 2}, {kValueCache, 3}};
  OutputDim const valueDim =
      tensors[kV].present ? OutputDim{kV, 3} : OutputDim{kQ, 3, attributes().integer("v_head_dim")};
  return {{kQ, 0}, {kQ, 1}, {kQ, 2}, valueDim};
}

int32_t HlaAttentionPlugin::aliasedInput(int32_t output) const {
  if (output == kKeyCacheOut && inputs().has(kKeyCache)) return kKeyCache;
  if (output == kValueCacheOut && inputs().has(kValueCache)) return kValueCache;
  return -1;
}

kernels::HlaAttentionParams HlaAttentionPlugin::paramsFromTensors(Tensors const& tensors) const {
  ShapeMatcher shapes(signature(), tensors);
  shapes.match(kQ, {"B", "S", "H", "dqk"});
  shapes.match(kK, {"B", "S", "Hkv", "dqk"});
  shapes.match(kV, {"B", "S", "Hkv", "dv"});
  shapes.match(kKeyCache, {"B", "Hkv", "C", "dqk"});
  shapes.match(kValueCache, {"B", "Hkv", "C", "dv"});
  shapes.match(kLam, {"B", "S", "H"});
  shapes.match(kPastLen, {"B"});
  shapes.match(kSeqLen, {"B"});
  bool const latent = !tensors[kV].present;
  int64_t const heads = shapes.value("H"), kvHeads = shapes.value("Hkv"), capacity = shapes.value("C");
  int32_t const valueDim = attributes().integer("v_head_dim");
  shapes.require("Hkv", kvHeads >= 1 && (heads < 0 || heads % kvHeads == 0),
                 "a divisor of the query heads expected, H is " + std::to_string(heads));
  shapes.require("Hkv", !latent || kvHeads == 1, "1 expected without 'v'");
  shapes.require("dv", valueDim == 0 || shapes.value("dv") == valueDim,
                 "the attribute v_head_dim says " + std::to_string(valueDim));
  shapes.require("dqk", !latent || valueDim <= shapes.value("dqk"),
                 "at least v_head_dim expected, which is " + std::to_string(valueDim));
  shapes.require("S", capacity < 0 || shapes.value("S") <= capacity,
                 "at most the cache's capacity expected, C is " + std::to_string(capacity));

  kernels::HlaAttentionParams params;
  params.data_type = kernelType(tensors[kQ].type);
  params.batch = shapes.size("B");
  params.seq = shapes.size("S");
  params.heads = shapes.size("H");
  params.kv_heads = shapes.size("Hkv");
  params.qk_head_dim = shapes.size("dqk");
  params.v_head_dim = latent ? valueDim : shapes.size("dv");
  params.cache_capacity = shapes.size("C");
  params.scale = attributes().real("scale");
  params.block_size = attributes().integer("block_size");
  params.inter_block = static_cast<kernels::InterBlock>(attributes().integer("inter_block"));
  params.lam_skip = attributes().real("lam_skip");
  params.num_sms = numSms();
  return params;
}

void HlaAttentionPlugin::checkShapes(Tensors const& tensors) const {
  paramsFromTensors(tensors);
}

size_t HlaAttentionPlugin::workspaceSize(Tensors const& tensors) const {
  return kernels::hlaAttentionWorkspaceSize(paramsFromTensors(tensors));
}

void HlaAttentionPlugin::setShapes(Tensors const& tensors) {
  params_ = paramsFromTensors(tensors);
  size_t const element = kernels::sizeOf(params_.data_type);
  auto const bytes = [&](Tensor const& cache) {
    return cache.present ? static_cast<size_t>(elementCount(cache.dims)) * element : 0;
  };
  keyCacheBytes_ = bytes(tensors[kKeyCache]);
  valueCacheBytes_ = bytes(tensors[kValueCache]);
}

// Brings an output cache that is not its input up to date.
cudaError_t HlaAttentionPlugin::copyUnlessAliased(void* output, void const* input, size_t bytes,
                                                  cudaStream_t stream) const {
  if (output == input || bytes == 0) return cudaSuccess;
  if (!copyIsKnown.exchange(true)) {
    log(Severity::kWarning,
        where() + ": enqueue: the engine gives a cache's output memory of its own, so that " +
            std::to_string(bytes) +
            " bytes are copied in every call, and as many for other caches; build it with the " +
            "preview feature for aliased plugin I/O (said once)");
  }
  return cudaMemcpyAsync(output, input, bytes, cudaMemcpyDeviceToDevice, stream);
}

cudaError_t HlaAttentionPlugin::launch(Pointers const& pointers, void* workspace, size_t workspaceSize,
                                       cudaStream_t stream) const {
  kernels::HlaAttentionParams params = params_;
  params.q = pointers.input(kQ);
  params.k = pointers.input(kK);
  params.v = pointers.input(kV);
  params.lam = pointers.input<float>(kLam);
  params.seq_len = pointers.input<int64_t>(kSeqLen);
  params.y = pointers.output(kY);
  params.workspace = workspace;
  params.workspace_size = workspaceSize;
  if (inputs().has(kKeyCache)) {
    params.past_len = pointers.input<int64_t>(kPastLen);
    params.key_cache = pointers.output(kKeyCacheOut);
    cudaError_t const status =
        copyUnlessAliased(params.key_cache, pointers.input(kKeyCache), keyCacheBytes_, stream);
    if (status != cudaSuccess) return status;
  }
  if (inputs().has(kValueCache)) {
    params.value_cache = pointers.output(kValueCacheOut);
    cudaError_t const status =
        copyUnlessAliased(params.value_cache, pointers.input(kValueCache), valueCacheBytes_, stream);
    if (status != cudaSuccess) return status;
  }
  return kernels::launchHlaAttention(params, stream);
}

}  // namespace r1trt::plugins
