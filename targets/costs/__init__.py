"""What ops cost on a target: measured where a kernel has been timed, else modelled."""

from graphopt.targets.costs.database import Database, Row, row_of
from graphopt.targets.costs.model import Model
from graphopt.targets.costs.reference import reference_model
from graphopt.targets.costs.service import ModelCosts, TargetCosts

__all__ = ["Database", "Model", "ModelCosts", "Row", "TargetCosts", "reference_model", "row_of"]
