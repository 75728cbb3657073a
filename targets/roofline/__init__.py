"""The machine's roofline: what arithmetic and memory can do at best, measured here."""

from graphopt.targets.roofline.described import described
from graphopt.targets.roofline.measure import UNSTEADY, host_roofline
from graphopt.targets.roofline.model import Bound, Roofline

__all__ = ["UNSTEADY", "Bound", "Roofline", "described", "host_roofline"]
