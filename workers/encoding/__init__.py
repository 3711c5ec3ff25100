"""Encoder engines: classification, scoring and embedding over packed batches, in torch and ONNX Runtime."""
