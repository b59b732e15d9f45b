"""The one door to matplotlib: cases, curves, the paper's figures, and the styles of methods."""
