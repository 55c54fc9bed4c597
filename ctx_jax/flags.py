"""How an error names a setting: by its field and by its flag."""


def field_with_flag(field: str, section: str) -> str:
    """A field of a section of the configuration with its flag: "max_positions (--model.max-positions)"."""
    return f"{field} (--{section}.{field.replace('_', '-')})"
