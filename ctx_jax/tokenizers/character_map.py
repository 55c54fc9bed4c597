"""SentencePiece's character map."""


def check_character_map(content: bytes) -> None:
    """Nothing."""
