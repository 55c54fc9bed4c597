"""ELMo: the bidirectional language model, how text becomes its inputs, its files."""
