"""Archives that we make: phantoms with known truth, and public data sets as DICOM.

In: a seed, or a folder as it is downloaded. Out: DICOM files and labels.csv (``archive``). What a phantom
shows is in ``phantom``; layouts of public sets are with their tasks.
"""
