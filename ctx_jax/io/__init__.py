"""Files that appear whole, locks, JSON, configurations as JSON, progress."""
