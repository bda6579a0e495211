"""Scores and runs as one HTML page. The only door to polars, matplotlib and jinja2.

In: a score folder or a run, labels if there are any. Out: a page that needs no network: figures and blocks
of the task's answer, plots, cases as pictures, drift, what was not scored and why.
"""
