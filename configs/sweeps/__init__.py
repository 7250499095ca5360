"""The configs of sweeps, for `experiments.sweep`."""
