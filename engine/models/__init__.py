"""Networks, and what is read off them. The only door to timm.

In: facts of a network (backbone, views, covariates, head) and batches. Out: ``Outputs``: logits or values,
features, embedding, and maps by Grad-CAM or class activation.
"""
