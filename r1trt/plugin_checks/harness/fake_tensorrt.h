// TensorRT's logger, logger finder and plugin registry in the layouts of its major versions 10 and 11.
//
// The plugin library asks getInferLibVersion() which of them it has before it; the harness answers what a
// test set.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/tensorrt.h"

namespace harness {

struct Message {
  int32_t severity;
  std::string text;
};

// Messages of every logger here, in order.
std::vector<Message>& messages();

// Creators that were registered, in order.
std::vector<nvinfer1::IPluginCreatorInterface*>& registered();

// How many registrations there were, later ones taken back included.
int32_t& registrations();

// The major version that the process pretends to have.
int32_t majorVersion();

// An nvinfer1::ILoggerFinder of a major version, 10 or 11.
void* finderOfMajor(int32_t major);

// An nvinfer1::IPluginRegistry of a major version, 10 or 11. A call of anything but registerCreator,
// getAllCreators and deregisterCreator ends the process: the library counted the slots wrong.
void* registryOfMajor(int32_t major);

}  // namespace harness
