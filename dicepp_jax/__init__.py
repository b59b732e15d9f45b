"""dicepp_jax: calibrated biomedical image segmentation with the DSC++ loss, in JAX.

Nothing is imported here, so that importing `dicepp_jax.losses`, `.metrics` or `.augment` costs no
more than importing jax itself.
"""

__version__ = "0.1.0"
