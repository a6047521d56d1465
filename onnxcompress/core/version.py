"""The version, where everything below the package's top can read it."""

VERSION = "0.1.0"
