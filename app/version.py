"""The version, as /health and the CLI tell it."""

VERSION = "0.1.0"
