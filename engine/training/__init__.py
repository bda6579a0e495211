"""From samples to a run.

In: a folder of samples, a recipe (``recipe``), and what a task learns (``learning``). Out: a run folder
with weights, metrics and held-out predictions. ``loop`` trains in a plain shell, ``on_ray`` on a cluster.
"""
