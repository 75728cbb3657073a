"""factorize: K x K convolutions as depthwise and pointwise ones."""
