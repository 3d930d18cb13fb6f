"""Spending: which of many judgements are worth their price."""

from retrodistill.spending.offers import usual_rule
from retrodistill.spending.rule import Known, Rule, Units
from retrodistill.spending.slices import Spent, spend

__all__ = ["Known", "Rule", "Spent", "Units", "spend", "usual_rule"]
