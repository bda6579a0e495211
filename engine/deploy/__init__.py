"""From a run to a bundle, and from a bundle to scores."""
