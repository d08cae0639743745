"""Subcellular locations of human proteins from four-channel fluorescence images."""
