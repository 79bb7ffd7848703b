"""Commands beside train and eval: their words, and what is done with them."""
