"""YAML files: read as mappings, and composed."""
