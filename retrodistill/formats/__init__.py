"""Formats: judged lists as other tools write and read them."""
