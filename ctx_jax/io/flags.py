"""How an error names a setting: by its field and by its flag."""

import re


def field_with_flag(field: str, section: str) -> str:
    """A field of a section of the configuration with its flag: "max_positions (--model.max-positions)"."""
    return f"{field} (--{section}.{field.replace('_', '-')})"


def without_flags(said: str) -> str:
    """The same of a file that somebody else wrote, where no flag sets anything."""
    return re.sub(r" \(--[^)]*\)", "", said)
