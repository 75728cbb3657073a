"""What ops cost on a target: measured where a kernel has been timed, else modelled."""

from graphopt.targets.costs.database import Database, Row, row_of
from graphopt.targets.costs.model import Model
from graphopt.targets.costs.service import TargetCosts

__all__ = ["Database", "Model", "Row", "TargetCosts", "row_of"]
