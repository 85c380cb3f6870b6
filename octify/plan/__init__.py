"""The plan: which channels of which convolutions are low-frequency, and in which basis, as data."""

from octify.plan.model import FORMAT, ConvPlan, Plan

__all__ = ["FORMAT", "ConvPlan", "Plan"]
