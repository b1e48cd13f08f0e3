"""How each system samples, one file a system: the presets of `inference.systems.catalog`.

A new system has a file here, listed in `catalog` with its presets of `generate`, `edit` and `ask`;
templates of its own, if it has any, in `data.templates`; and the style of its records in
`data.templates.style`, by which a run knows it. Tests hold these lists together.
"""
