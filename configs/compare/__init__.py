"""Configs of comparisons of methods on one network."""
