"""dicepp_jax: calibrated biomedical image segmentation with the DSC++ loss, in JAX.

Nothing is imported here, so that `dicepp_jax.losses`, `.metrics` and `.augment` cost no more than
jax itself.
"""

__version__ = "0.1.0"
