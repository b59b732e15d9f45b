"""Baselines in training: dropout, and a second loss after the first."""
