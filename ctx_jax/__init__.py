"""Contextual word embeddings in JAX: train them, load them, mix their layers."""
