"""Pixels and their geometry. Pure functions of arrays.

In: values of an image, boxes, points. Out: the network's view with its ``Geometry`` (``preprocess``), moved
maps and boxes (``warp``, ``boxes``), augmented batches (``augment``), an attention map over an image
(``overlay``).
"""
