"""mrc_jax."""
