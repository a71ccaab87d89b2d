"""From an embedding to an outcome: each task is outputs, loss, prediction and score."""
