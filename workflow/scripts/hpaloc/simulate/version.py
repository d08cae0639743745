"""The version of the simulator. Free of numpy: the Snakefile imports it."""

# Raise it with every change after which the same settings give other pictures, labels, names or
# cell lines (a test holds a coarse copy of some pictures to it). Sources of another version are
# then made again in whole, also where Snakemake's own records of them are gone; an edit that
# changes no picture makes them again only where those records tell of other code.
# 1: dividing cells and gathered cells lay mostly where labels 16, 17 and 22 did.
# 2: what a field holds hardly depends on the labels; random streams that coincided are apart.
VERSION = 2

# A file of this name beside the index says which version made the source.
STAMP = f"simulator_{VERSION}"
