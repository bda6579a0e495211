"""The only door to pydicom: guarded reading, header whitelist, pixels, and writing."""
