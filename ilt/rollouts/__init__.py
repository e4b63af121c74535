"""Flying: policies, and the one loop in which expert, student and random policy are flown."""

from ilt.rollouts.flight import rollout
from ilt.rollouts.parallel import WorkerDied
from ilt.rollouts.policies import ExpertPolicy, FunctionPolicy, Policy, RandomPolicy
from ilt.rollouts.students import ContextPolicy

__all__ = ["ContextPolicy", "ExpertPolicy", "FunctionPolicy", "Policy", "RandomPolicy", "WorkerDied", "rollout"]
