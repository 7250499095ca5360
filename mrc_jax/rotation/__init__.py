"""Bits back from rotational symmetry: rotated weights whose rotation holds bits of the stream that
was written before them (He, Flamich and Hernandez-Lobato 2024, arXiv 2410.01309).
"""
