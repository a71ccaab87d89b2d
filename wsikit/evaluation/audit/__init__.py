"""Questions to a cohort before anybody believes a number on it, each with a verdict and what to do."""
