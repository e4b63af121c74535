"""Imitation algorithms: which expert labels a student is trained on, and when they are collected."""
