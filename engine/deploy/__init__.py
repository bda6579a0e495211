"""From a run to a bundle (``export``), and from a bundle to scores (``score``).

In: a finished run; then samples. Out: a bundle with graph, compiled engine and checks; then rows of
predictions, or the reason why a score is withheld (``quality``, ``out_of_distribution``).
"""
