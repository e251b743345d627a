// TensorRT's declarations: NVIDIA's headers where the build found them, else the project's own.
#pragma once

#if defined(R1TRT_OFFICIAL_HEADERS)
#include <NvInferRuntime.h>
#else
#include "../abi/interfaces.h"
#endif
