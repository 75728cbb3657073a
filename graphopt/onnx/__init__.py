"""ONNX in and out: the only importer of the onnx package, and the place of reference runs."""

from graphopt.onnx.evaluate import evaluate_opaque
from graphopt.onnx.exporter import to_proto
from graphopt.onnx.read import load
from graphopt.onnx.reference import Reference
from graphopt.onnx.remodel import remodel
from graphopt.onnx.write import save

__all__ = ["Reference", "evaluate_opaque", "load", "remodel", "save", "to_proto"]
