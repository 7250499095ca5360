"""The experiments: main jobs driven by ml_collections configs."""
