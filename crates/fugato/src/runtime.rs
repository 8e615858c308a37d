//! Finding the ONNX Runtime library.
