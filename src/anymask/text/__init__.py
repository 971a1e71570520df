"""Text as a prompt: masks ranked by how well their picture fits a phrase."""
