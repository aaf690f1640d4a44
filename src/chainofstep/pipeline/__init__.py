"""The stages of a recipe, run in one folder; a finished stage is not run again."""
