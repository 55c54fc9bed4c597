"""Strings to ids and back: characters, vocabularies, subwords, sentence and word splitting."""
