"""The BERT family, GPT and GPT-2, ModernBERT: one Transformer, its inputs, its files."""
