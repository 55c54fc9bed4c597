"""Corpora to examples to fixed-shape batches: deterministic and resumable."""
