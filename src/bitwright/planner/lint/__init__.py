"""What is wrong with a plan, a launch line or a manifest."""
