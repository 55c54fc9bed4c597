"""How an error names a field of a model's configuration."""


def said(field: str) -> str:
    """A field with its flag: "max_positions (--model.max-positions)"."""
    return f"{field} (--model.{field.replace('_', '-')})"
