"""Learning: the LightningModule, the LightningDataModule, and what happens beside the training steps."""

from ilt.learning.callbacks import EMA, LearningCurve, Pruning, RolloutEvaluation
from ilt.learning.data import WindowData
from ilt.learning.module import ImitationModule

__all__ = ["EMA", "ImitationModule", "LearningCurve", "Pruning", "RolloutEvaluation", "WindowData"]
