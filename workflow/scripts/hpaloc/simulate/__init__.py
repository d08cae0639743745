"""A renderer of fluorescent cells: from a seed and an image number to four channels and labels.

Lengths are in micrometres until something is drawn; positions are (x, y). Read
``render.py`` first: it is the whole path of one image.
"""
