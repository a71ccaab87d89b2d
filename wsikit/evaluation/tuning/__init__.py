"""Settings chosen by trials on inner folds, and what they cost."""
