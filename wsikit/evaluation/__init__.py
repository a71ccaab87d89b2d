"""What a metric's number is worth: intervals over patients, risk groups, tests that hold their level."""
