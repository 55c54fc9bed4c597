"""Hugging Face folders of Transformers: their configurations, tensor names and heads, in and out."""
