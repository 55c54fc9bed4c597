"""Parameters on disk: our runs, and other people's files both ways."""
