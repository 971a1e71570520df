"""Reading photos with masks, and serving them to the trainer."""
