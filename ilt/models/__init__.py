"""Models: plain `nn.Module`s from windows to action logits, which know no Lightning and no environment."""

from ilt.models.decoder import Decoder

__all__ = ["Decoder"]
