"""Group relative policy optimisation as pure functions."""
