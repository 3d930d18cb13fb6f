"""What a run would ask of teachers and of the machine, before anything is paid."""

from retrodistill.plan.making import plan
from retrodistill.plan.told import Line, Plan, Step

__all__ = ["Line", "Plan", "Step", "plan"]
