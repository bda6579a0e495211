"""A task that the engine does not know: four grades of wear of an ankle. All of it lies in this folder.

The image is 64 rows x 96 columns, the truth a grade and a box around the joint, and a laboratory value, which
may be missing, goes in beside the image. ``installed`` holds what an installed package leaves
for the engine to find it by: its entry points. The tests lead it through every verb.
"""
