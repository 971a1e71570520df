"""Shapes, geometry, images, masks and errors: everything below the model. No torch here."""
