"""The only door to polars: score folders and runs read back, turned into tables, plots and one HTML page."""
