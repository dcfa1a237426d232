"""The name of what rematerialisation by `remat="norms"` keeps."""

# Given by `checkpoint_name` to what is dear to compute again: the results of convolutions and of
# pools, and BatchNorm's statistics.
KEPT = "kept"
