"""Learning: the LightningModule, the LightningDataModule, and what happens beside the training steps."""

from ilt.learning.callbacks import EMA, LearningCurve, Pruning, RolloutEvaluation
from ilt.learning.data import WindowData
from ilt.learning.display import TrainingDisplay
from ilt.learning.module import ImitationModule
from ilt.learning.preemption import Preemption
from ilt.learning.rounds import Rounds

__all__ = [
    "EMA",
    "ImitationModule",
    "LearningCurve",
    "Preemption",
    "Pruning",
    "RolloutEvaluation",
    "Rounds",
    "TrainingDisplay",
    "WindowData",
]
