"""Policies, and the one rollout loop in which expert, student and random policy act."""
