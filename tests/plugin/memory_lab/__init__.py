"""A research package with an environment, an expert, a model, recordings, an imitation algorithm and an optimizer."""

import gymnasium as gym

gym.register("MemoryLab/Cue-v0", "memory_lab.env:Cue", max_episode_steps=10)
