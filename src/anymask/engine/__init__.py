"""The data engine: a store of photos, masks, tasks and reviews that many people and workers share."""
