"""Parameters on disk: our runs, and other people's files both ways."""

from ctx_jax.encoders.elmo import allennlp

__all__ = ["allennlp"]
