"""Command lines: flags, working directories, logging. What they run is in dicepp_jax."""
