"""Step scorers that hold no weights, and what is made of step scores: path scores and preference pairs."""
