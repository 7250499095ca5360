"""Speed and memory of the kernels, of a training step and of the decoder."""
