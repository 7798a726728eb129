"""How much ordinary searches miss, measured on a sample of the live ones."""
