"""The model of the paper as torch modules: image encoder, prompt encoder, mask decoder."""
