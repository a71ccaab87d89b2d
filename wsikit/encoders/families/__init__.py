"""One encoder or family of encoders per file; ``wsikit.encoders.registry`` finds them."""
