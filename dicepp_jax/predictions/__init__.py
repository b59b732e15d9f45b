"""Prediction of images: finding and reading them, deciding classes, writing and scoring maps."""
