"""The Human Protein Atlas, release 18: names, entries, selections and images."""
