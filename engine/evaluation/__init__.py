"""What an answer is, and statistics of answers. No torch.

In: held-out predictions (``held_out``). Out: metrics with intervals, agreement, comparisons of two models,
conformal intervals. ``answer`` is the contract between a task and the rest of the engine.
"""
