"""Tasks of lm-evaluation-harness on weight sources."""
