"""The commands: plain functions that a person calls by name, registered when their modules are imported."""
