"""How answers are drawn: arrays in, matplotlib figures out; it knows kinds, and no model.

Reading order: style, rows, and one file for each way to look at an answer.
"""
