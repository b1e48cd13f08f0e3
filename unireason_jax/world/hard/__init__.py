"""The harder world: more objects, things in front of others, plans that leave places open.

48 pixels, 6 x 6 cells of the cells that the first world has, so its lossless codec holds; or a
smaller canvas with fewer things, for models that learn on two cores. A thing may stand in front of
another. Plans say how many of what in which arrangement and in which quarter of the picture, and no
cell, so a right plan does not give the picture away.
"""
