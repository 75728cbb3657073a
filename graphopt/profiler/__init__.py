"""Where a bundle's time goes: layer by layer, against what this machine can do."""

from graphopt.profiler.model import FamilyTimes, LayerTimes, Profile
from graphopt.profiler.take import estimated, profile, profile_session, seeded_inputs

__all__ = ["FamilyTimes", "LayerTimes", "Profile", "estimated", "profile",
           "profile_session", "seeded_inputs"]  # fmt: skip
