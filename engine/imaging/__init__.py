"""Pixels and their geometry: views, boxes, warps, augmentation."""
