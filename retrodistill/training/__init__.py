"""Training: rows, batches, the objective and the trainer."""
