"""Language models that judge: on this machine, or behind a server."""
