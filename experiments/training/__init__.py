"""Training from a config: single runs, grids, and calibration after training."""
