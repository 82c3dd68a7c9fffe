"""Models in the layouts that other people's code reads, and back.

`prismatic` (the checkpoints of Prismatic VLMs), `llava_hf` (a folder for transformers), `mm_projector` (the projector
file of the original LLaVA). Each has pure functions `to_…` and `from_…` between modules and tensors by name, and a pair
that writes and reads the files. All of them are strict: a tensor that is missing, left over or of another shape is an
error that names it, and what a layout has no place for is refused.

Numbers pass unchanged: what was written in a format and read again is written as the same bytes. bfloat16 rounds once.
"""
