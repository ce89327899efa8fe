"""Data: readers, templates, encoding, packing, and the texts and problems that the demo is made of."""
