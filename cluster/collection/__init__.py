"""Several indexes on one server, besides its default one."""
