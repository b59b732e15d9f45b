"""From a command line to a config, and from a config to what an experiment consists of."""
