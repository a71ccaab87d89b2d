"""One readable training loop, the model it trains, and the bundle it leaves."""
