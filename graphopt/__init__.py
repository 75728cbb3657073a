"""graphopt: a compiler-style optimizer for neural networks in ONNX."""
