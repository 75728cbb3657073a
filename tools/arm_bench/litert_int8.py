"""LiteRT's own quantizer: float32 to static int8, weights by channel; run by a Python that has it.

    python litert_int8.py IN.tflite RANGES.npz OUT.tflite

RANGES has samples of each input, by its name and along a new first axis, as ONNX has them.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np
from peer import placed


def main() -> None:
    """Calibrate on the ranges, quantize, write."""
    source, ranges, out = sys.argv[1:]
    interpreters: Any = importlib.import_module("ai_edge_litert.interpreter")
    quantizers: Any = importlib.import_module("ai_edge_quantizer.quantizer")
    recipes: Any = importlib.import_module("ai_edge_quantizer.recipe")
    interpreter = interpreters.Interpreter(source)
    ((signature, told),) = interpreter.get_signature_list().items()
    details = interpreter.get_signature_runner(signature).get_input_details()
    with np.load(ranges) as given:
        arrays = {name: given[name] for name in told["inputs"]}
    samples = [
        {name: placed(a[i], tuple(details[name]["shape"])) for name, a in arrays.items()}
        for i in range(min(map(len, arrays.values())))
    ]
    quantizer = quantizers.Quantizer(source)
    quantizer.load_quantization_recipe(recipes.static_wi8_ai8())
    quantizer.quantize(quantizer.calibrate({signature: samples})).export_model(out)


if __name__ == "__main__":
    main()
