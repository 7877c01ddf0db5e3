"""Training: recipes, optimisers, schedules, metrics, steps, the Trainer."""
