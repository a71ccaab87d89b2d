"""Methods that bring the stain of one slide to that of a fixed target: one file per method."""
