"""What a trained encoder is worth: perplexities, baselines, neighbours, senses, similarity, grammar."""
