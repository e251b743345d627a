"""Bodies that ONNX Runtime executes in FP32: only routed tokens, only the blocks that are needed."""
