#include "attributes.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <utility>

#include "error.h"
#include "inputs.h"

namespace r1trt::plugins {

namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

constexpr char const* kLayerName = "layer_name";
constexpr char const* kNumSms = "num_sms";
constexpr AttributeSpec kNumSmsSpec{kNumSms, AttributeType::kInt, 0, 0, 1 << 16};
constexpr char const* kWorkspaceUnits = "workspace_units";
constexpr AttributeSpec kWorkspaceUnitsSpec{kWorkspaceUnits, AttributeType::kInt, kUnknownWorkspace,
                                            kUnknownWorkspace, std::numeric_limits<int32_t>::max()};
constexpr int32_t kMaxLayerName = 1024;

std::string numberText(double value) {
  std::ostringstream text;
  text.precision(9);
  text << value;
  return text.str();
}

template <typename Number>
double numberAt(void const* data) {
  Number number;
  std::memcpy(&number, data, sizeof number);
  return static_cast<double>(number);
}

double numberFromField(PluginField const& field, AttributeType type) {
  std::string const name = std::string("attribute '") + field.name + "'";
  if (field.data == nullptr || field.length != 1) {
    throw PluginError(name + " has " + std::to_string(field.data == nullptr ? 0 : field.length) +
                      " elements; one number expected");
  }
  bool const integer = type == AttributeType::kInt;
  if (integer && field.type == PluginFieldType::kINT32) return numberAt<int32_t>(field.data);
  if (integer && field.type == PluginFieldType::kINT64) return numberAt<int64_t>(field.data);
  if (!integer && field.type == PluginFieldType::kFLOAT32) return numberAt<float>(field.data);
  if (!integer && field.type == PluginFieldType::kFLOAT64) return numberAt<double>(field.data);
  throw PluginError(name + " has field type " + std::to_string(static_cast<int32_t>(field.type)) + "; " +
                    (integer ? "an integer (INT32 or INT64)" : "a float (FLOAT32 or FLOAT64)") + " expected");
}

void requireRange(AttributeSpec const& spec, double value) {
  if (std::isfinite(value) && value >= spec.minimum && value <= spec.maximum) return;
  throw PluginError(std::string("attribute '") + spec.name + "' is " + numberText(value) + "; from " +
                    numberText(spec.minimum) + " to " + numberText(spec.maximum) + " expected");
}

std::string textFromField(PluginField const& field) {
  if (field.type != PluginFieldType::kCHAR || field.length < 0 || field.length > kMaxLayerName ||
      (field.data == nullptr && field.length > 0)) {
    throw PluginError(std::string("field '") + field.name + "' is no text of at most " +
                      std::to_string(kMaxLayerName) + " characters");
  }
  return {static_cast<char const*>(field.data), static_cast<size_t>(field.length)};
}

}  // namespace

Attributes::Attributes(Signature const& signature, nvinfer1::PluginFieldCollection const* fields,
                       nvinfer1::TensorRTPhase phase)
    : signature_(signature), seen_(signature.attributes.size(), false) {
  for (AttributeSpec const& spec : signature.attributes) values_.push_back(spec.fallback);
  int32_t const count = fields == nullptr ? 0 : fields->nbFields;
  if (count < 0 || (count > 0 && fields->fields == nullptr)) throw PluginError("malformed field collection");
  for (int32_t i = 0; i < count; ++i) {
    PluginField const& field = fields->fields[i];
    if (field.name == nullptr) throw PluginError("field " + std::to_string(i) + " has no name");
    if (phase != nvinfer1::TensorRTPhase::kRUNTIME || !restore(field)) take(field);
  }
}

// Takes a field that the library added; false if it is another.
bool Attributes::restore(PluginField const& field) {
  if (std::strcmp(field.name, kLayerName) == 0) {
    layerName_ = textFromField(field);
    return true;
  }
  for (auto const& [spec, target] :
       {std::pair{&kNumSmsSpec, &numSms_}, {&kWorkspaceUnitsSpec, &workspaceUnits_}}) {
    if (std::strcmp(field.name, spec->name) != 0) continue;
    double const number = numberFromField(field, spec->type);
    requireRange(*spec, number);
    *target = static_cast<int32_t>(number);
    return true;
  }
  return false;
}

void Attributes::take(PluginField const& field) {
  std::string const name = field.name;
  AttributeSpec const mask{kInputMask, AttributeType::kInt, 0, 0, std::numeric_limits<int32_t>::max()};
  bool const isMask = name == kInputMask;
  size_t index = 0;
  while (!isMask && index < values_.size() && name != signature_.attributes[index].name) ++index;
  if (!isMask && index == values_.size()) {
    std::string known = kInputMask;
    for (AttributeSpec const& spec : signature_.attributes) known += std::string(", ") + spec.name;
    throw PluginError("unknown attribute '" + name + "'; known are " + known);
  }
  if (isMask ? maskSeen_ : seen_[index]) throw PluginError("attribute '" + name + "' is given twice");
  AttributeSpec const& spec = isMask ? mask : signature_.attributes[index];
  double const value = numberFromField(field, spec.type);
  requireRange(spec, value);
  if (isMask) {
    inputMask_ = static_cast<int32_t>(value);
    maskSeen_ = true;
  } else {
    values_[index] = value;
    seen_[index] = true;
  }
}

double Attributes::valueOf(char const* name) const {
  for (size_t i = 0; i < values_.size(); ++i) {
    if (std::strcmp(signature_.attributes[i].name, name) == 0) return values_[i];
  }
  throw PluginError(std::string("no attribute '") + name + "'");
}

std::string Attributes::text() const {
  std::ostringstream text;
  text.precision(9);
  for (size_t i = 0; i < values_.size(); ++i)
    text << signature_.attributes[i].name << '=' << values_[i] << ' ';
  text << kInputMask << '=' << inputMask_;
  return text.str();
}

nvinfer1::PluginFieldCollection const* SerializedFields::assign(Attributes const& attributes,
                                                                AddedFields added) {
  std::vector<AttributeSpec> const& specs = attributes.signature().attributes;
  integers_.assign(specs.size() + 1, 0);
  reals_.assign(specs.size(), 0.0F);
  added_ = std::move(added);
  fields_.clear();
  for (size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].type == AttributeType::kInt) {
      integers_[i] = attributes.integer(specs[i].name);
      fields_.emplace_back(specs[i].name, &integers_[i], PluginFieldType::kINT32, 1);
    } else {
      reals_[i] = attributes.real(specs[i].name);
      fields_.emplace_back(specs[i].name, &reals_[i], PluginFieldType::kFLOAT32, 1);
    }
  }
  integers_.back() = attributes.inputMask();
  fields_.emplace_back(kInputMask, &integers_.back(), PluginFieldType::kINT32, 1);
  fields_.emplace_back(kNumSms, &added_.numSms, PluginFieldType::kINT32, 1);
  fields_.emplace_back(kWorkspaceUnits, &added_.workspaceUnits, PluginFieldType::kINT32, 1);
  fields_.emplace_back(kLayerName, added_.layerName.data(), PluginFieldType::kCHAR,
                       static_cast<int32_t>(added_.layerName.size()));
  collection_.nbFields = static_cast<int32_t>(fields_.size());
  collection_.fields = fields_.data();
  return &collection_;
}

std::vector<PluginField> fieldNames(Signature const& signature) {
  std::vector<PluginField> names;
  for (AttributeSpec const& spec : signature.attributes) {
    bool const integer = spec.type == AttributeType::kInt;
    names.emplace_back(spec.name, nullptr, integer ? PluginFieldType::kINT32 : PluginFieldType::kFLOAT32, 1);
  }
  names.emplace_back(kInputMask, nullptr, PluginFieldType::kINT32, 1);
  return names;
}

}  // namespace r1trt::plugins
