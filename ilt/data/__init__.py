"""Episodes, sequence windows over them, and the LightningDataModule."""
