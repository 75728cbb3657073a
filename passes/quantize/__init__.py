"""Quantization of float models: ranges, integers, and what repairs the error.

The passes, in the order that pipelines use them; each does without those in brackets:

    [equalize, smooth], calibrate, quantize, [adaround, bias_correct]

`equalize` and `smooth` move scales between layers so that integers fit them better; `calibrate`
runs samples and notes ranges (`calibrated` ops); `quantize` puts `quantize` and `dequantize` there
and around weights; `adaround` and `bias_correct` make up for some of the rounding.
"""

from graphopt.passes.quantize import adaround, bias_correct, calibrate, equalize, insert, smooth

__all__ = ["adaround", "bias_correct", "calibrate", "equalize", "insert", "smooth"]
