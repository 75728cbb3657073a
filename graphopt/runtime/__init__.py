"""Run a compiled bundle: numpy and ctypes, no compiler, no TVM."""

from graphopt.runtime.manifest import Manifest, TensorSpec
from graphopt.runtime.session import LayerTime, Session

__all__ = ["LayerTime", "Manifest", "Session", "TensorSpec"]
