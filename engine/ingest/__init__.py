"""From a file to a sample.

In: bytes of a source, the input rule of a task (``instance``), label and covariate tables. Out: the header
columns, the network's view and the geometry of each instance that fits, or the reason why there is none.
Decoding runs in a child process (``decode_process``).
"""
