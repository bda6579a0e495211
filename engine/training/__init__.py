"""From samples to a run: recipe, data set, loop, checkpoint, evaluation."""
