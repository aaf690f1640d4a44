"""What the viewer shows of run folders: rollouts as trees of steps, scores, searches, pairs, and labels by hand."""
