"""The LightningModule, its callbacks, and the training stage."""
