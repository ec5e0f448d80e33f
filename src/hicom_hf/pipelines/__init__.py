"""Pipeline code that ships with the weights: flat, and importing only its own folder and third parties."""
