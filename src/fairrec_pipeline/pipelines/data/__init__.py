"""Raw files to interactions with roles and groups."""
