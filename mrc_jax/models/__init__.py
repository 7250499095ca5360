"""Networks of the experiments: plain linen modules, quick on CPU inside a scan."""
