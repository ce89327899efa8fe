"""Training: one trainer, and its objectives for pretraining, instruction tuning and alignment."""
