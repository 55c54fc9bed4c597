"""Array functions that every family may use: linear, lookup, attention, recurrences."""
