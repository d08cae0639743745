"""The figures of the paper, each drawn from a tidy table by one module of this package."""
