"""What all folders of the Hugging Face kind share."""
