"""The accuracy of quantized models: tasks, metrics, and the tools that quantize (bench_quant.py)."""
