"""Published instruction data: one record schema, read where it lies in the formats in which it is published.

`formats` says how each source is published, `scan` walks over its annotation files, `index` remembers where every
record lies, `folders` finds a source again by its content, `source` reads any record of an opened one, and `mix` puts
sources together. Imports no torch.
"""
