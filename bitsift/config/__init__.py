"""The configuration: one frozen, typed tree, and where its values come from."""
