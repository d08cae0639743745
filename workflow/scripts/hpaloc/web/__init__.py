"""Fetching of many files from public hosts: polite to them, and safe against what they answer."""
