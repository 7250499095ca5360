"""Networks whose weights are few values: the centres of Weight Fixing Networks and of PWFN."""
