"""The plan: which channels of which convolutions are low-frequency, as data."""

from octify.plan.model import ConvPlan, Plan

__all__ = ["ConvPlan", "Plan"]
