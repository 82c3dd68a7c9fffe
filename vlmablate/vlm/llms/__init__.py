"""Causal language models of transformers, behind one face: a registry by exact name, loading, one wrapper."""
