"""What lossy passes know of layers with weights: their matrices, inputs, prices, weight in the end.

`unfold`: a layer as matrix products. `gram`: sums over what it reads on samples. `sensitivity`: how
much of its error is left in the model's outputs. `gain`: what computing it another way saves.
"""
