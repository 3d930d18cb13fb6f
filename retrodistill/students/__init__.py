"""Students: the models that learn."""
