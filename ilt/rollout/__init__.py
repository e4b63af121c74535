"""Policies, and the one rollout loop for expert, student and random policy."""
