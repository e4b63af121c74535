"""Somebody's research package: an environment, an expert, a model, recordings, a way to imitate, and an optimizer."""

import gymnasium as gym

gym.register("MemoryLab/Cue-v0", "memory_lab.env:Cue", max_episode_steps=10)
